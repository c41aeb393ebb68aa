"""The embedded store's append-only file, read and repaired from outside the store.

It consists of several files: a base, with the data at the time of the last rewrite, and one or more incremental files
with the commands since then. A manifest lists them in this order.

Valkey 9.1 opens the incremental file of a rewrite without O_APPEND. If a full disk takes only part of a command, Valkey
cuts that part off, and later continues at the offset where the part ended. The gap between holds NULs, which Valkey
refuses to read at its next start. (Its own `valkey-check-aof --fix` removes everything after them, and cannot read
Valkey's base files.)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_FOLDER = "appendonlydir"
_CHUNK_BYTES = 1 << 20


class _Broken(Exception):
    """The file does not continue with a whole command."""


@dataclass(frozen=True)
class Repair:
    """The result of a repair: the bytes that it removed.

    Attributes:
        empty: Bytes that held nothing.
        lost: Bytes of commands that could not be read, and of everything after them.
    """

    empty: int
    lost: int


def in_use(data_dir: Path, kinds: str = "bi") -> list[Path]:
    """Return the base (b) and the incremental files (i), oldest first. A rewrite never reuses a name."""
    folder = data_dir / _FOLDER
    try:
        # Each line: file NAME seq NUMBER type KIND
        lines = [line.split() for line in (folder / "appendonly.aof.manifest").read_text(errors="replace").splitlines()]
    except FileNotFoundError:
        return []
    return [folder / words[1] for words in lines if words[:1] == ["file"] and len(words) > 5 and words[5] in kinds]


def size(files: Iterable[Path]) -> int:
    """Return the total size of files in bytes. For all files in use, the store expects `aof_current_size`."""
    return sum(path.stat().st_size for path in files)


def repair(data_dir: Path) -> Repair:
    """Remove from the incremental files what the store could not read. No store may be running on them.

    NULs between two commands are removed alone. Anything else that cannot be read is removed with everything after it,
    also in later files: a command is worthless without those before it. Each file is replaced in one step, so that a
    killed repair leaves it as it was.

    Raises:
        OSError: If a file cannot be read or written, for example because the disk is full.
    """
    empty = lost = 0
    for path in in_use(data_dir, "i"):
        length = path.stat().st_size
        spans, nuls = ([], 0) if lost else _readable(path)
        remaining = sum(end - start for start, end in spans)
        empty += nuls
        lost += length - remaining - nuls
        if remaining < length:
            _rewrite(path, spans, data_dir / "temp-mended.aof")
    return Repair(empty, lost)


def _readable(path: Path) -> tuple[list[tuple[int, int]], int]:
    """Return the spans of whole commands and transactions, and the number of NULs between and after them."""
    # Read, not mapped: if the disk fails to deliver a mapped page, the process dies; a failed read is an OSError.
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        spans, nuls, start, at = list[tuple[int, int]](), 0, 0, 0
        # The state before a transaction, in case it does not end.
        before: tuple[list[tuple[int, int]], int] | None = None
        with contextlib.suppress(_Broken):
            while at < size:
                if hole := _skip_nuls(file, at):
                    spans.append((start, at))
                    nuls += hole
                    start = at = at + hole
                    continue
                name = _skip_command(file, size)
                if name == b"MULTI":
                    before = ([*spans, (start, at)], nuls)
                elif name == b"EXEC":
                    before = None
                at = file.tell()
        return before or ([*spans, (start, at)], nuls)


def _skip_nuls(file: BinaryIO, at: int) -> int:
    """Move past the NULs at an offset, and return their number."""
    nuls = 0
    while chunk := file.read(1 if not nuls else _CHUNK_BYTES):
        count = len(chunk) - len(chunk.lstrip(b"\0"))
        nuls += count
        if count < len(chunk):
            break
    file.seek(at + nuls)
    return nuls


def _skip_command(file: BinaryIO, size: int) -> bytes:
    """Move past a command, and return its name."""
    line = _read_line(file)
    if line[:1] == b"#":  # An annotation: one line.
        return b""
    name = b""
    for index in range(_parse_number(line, b"*")):
        length = _parse_number(_read_line(file), b"$")
        if length > size - file.tell():
            raise _Broken
        if index == 0:
            name = file.read(length).upper()
        else:
            file.seek(length, os.SEEK_CUR)
        if file.read(2) != b"\r\n":
            raise _Broken
    return name


def _parse_number(line: bytes, mark: bytes) -> int:
    digits = line[1:-2]
    if line[:1] != mark or not digits.isdigit():
        raise _Broken
    return int(digits)


def _read_line(file: BinaryIO) -> bytes:
    # No line with a length or a time is longer.
    line = file.readline(64)
    if not line.endswith(b"\r\n"):
        raise _Broken
    return line


def _rewrite(path: Path, spans: list[tuple[int, int]], temporary: Path) -> None:
    """Replace a file by spans of it, in one step and on disk when this returns."""
    with path.open("rb") as file, temporary.open("wb") as other:
        other_fd = other.fileno()
        os.fchmod(other_fd, 0o600)
        for start, end in spans:
            file.seek(start)
            left = end - start
            while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
                other.write(chunk)
                left -= len(chunk)
        other.flush()
        os.fsync(other_fd)
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
