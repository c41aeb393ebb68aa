"""Measurement and repair of the embedded store's append-only file, from outside the store.

The append-only file consists of several files: a base, with the data at the time of the last rewrite, and one or more
incremental files with the commands since then. A manifest lists them in this order.

Valkey 9.1 opens the incremental file of a rewrite without O_APPEND. If the disk becomes full in the middle of a
command, Valkey truncates the file to the last whole command, but later continues at the offset where the partial
command ended. The hole in between contains NULs, which Valkey refuses to load at its next start. `valkey-check-aof
--fix` removes everything after the hole, and cannot read Valkey's base files.
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
    """No whole command follows."""


@dataclass(frozen=True)
class Repair:
    """The numbers of bytes that a repair removed.

    Attributes:
        empty: NULs between commands.
        lost: Commands that could not be read, and everything after them.
    """

    empty: int
    lost: int


def in_use(data_dir: Path, kinds: str = "bi") -> list[Path]:
    """Return the base (b) and the incremental files (i), oldest first. Rewrites never reuse a name."""
    folder = data_dir / _FOLDER
    try:
        # Each line: file NAME seq NUMBER type KIND
        lines = [line.split() for line in (folder / "appendonly.aof.manifest").read_text(errors="replace").splitlines()]
    except FileNotFoundError:
        return []
    return [folder / words[1] for words in lines if words[:1] == ["file"] and len(words) > 5 and words[5] in kinds]


def size(files: Iterable[Path]) -> int:
    """Return the total size of files in bytes. The store reports the expected total as `aof_current_size`."""
    return sum(path.stat().st_size for path in files)


def repair(data_dir: Path) -> Repair:
    """Remove unreadable data from the incremental files. The store must not be running.

    NULs between two commands are removed. Any other unreadable data is removed with everything after it, including
    later files, because a command is worthless without those before it. Each file is replaced atomically, so that an
    interrupted repair leaves it unchanged.

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
    # Not mapped into memory: a disk error kills a process that reads a mapped page, but `read` raises OSError.
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        spans, nuls, start, at = list[tuple[int, int]](), 0, 0, 0
        # The result before a transaction, in case it is incomplete.
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
    """Skip the NULs at an offset, and return their number."""
    nuls = 0
    while chunk := file.read(1 if not nuls else _CHUNK_BYTES):
        count = len(chunk) - len(chunk.lstrip(b"\0"))
        nuls += count
        if count < len(chunk):
            break
    file.seek(at + nuls)
    return nuls


def _skip_command(file: BinaryIO, size: int) -> bytes:
    """Skip a command, and return its name."""
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
    # Lines with a length or a timestamp are shorter.
    line = file.readline(64)
    if not line.endswith(b"\r\n"):
        raise _Broken
    return line


def _rewrite(path: Path, spans: list[tuple[int, int]], temporary: Path) -> None:
    """Replace a file with spans of itself, atomically and durably."""
    with path.open("rb") as file, temporary.open("wb") as output:
        os.fchmod(output.fileno(), 0o600)
        for start, end in spans:
            file.seek(start)
            left = end - start
            while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
                output.write(chunk)
                left -= len(chunk)
        output.flush()
        os.fsync(output.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
