"""The embedded store's append-only file, read from outside: how large it is, and what of it can be read back.

It is several files: a base, which is what the store held when it last rewrote, then the commands since, in one or more
incremental files; a manifest names them in this order.

Valkey 9.1 opens the incremental file of a rewrite without O_APPEND. Where it can write a command only in part, since
the disk is full, it cuts that part off, and when it can write again goes on where the part ended: in between the file
holds NULs. Valkey refuses to read those. (Its own `valkey-check-aof --fix` cuts off all that follows them, and does not
know its own base files.)
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
    """There is no command where one should be."""


@dataclass(frozen=True)
class Mended:
    """What was taken out of the files, so that they can be read.

    Attributes:
        empty: Bytes that held nothing.
        lost: Bytes of commands that could not be read, and of all that came after them.
    """

    empty: int
    lost: int


def in_use(data_dir: Path, kinds: str = "bi") -> list[Path]:
    """The base (b) and the incremental files (i), oldest first. A rewrite takes names that were never used before."""
    folder = data_dir / _FOLDER
    try:
        # Each line: file NAME seq NUMBER type KIND
        lines = [line.split() for line in (folder / "appendonly.aof.manifest").read_text(errors="replace").splitlines()]
    except FileNotFoundError:
        return []
    return [folder / words[1] for words in lines if words[:1] == ["file"] and len(words) > 5 and words[5] in kinds]


def size(files: Iterable[Path]) -> int:
    """The bytes of files. Of all in use, `aof_current_size` is what the store believes to have written to them."""
    return sum(path.stat().st_size for path in files)


def mend(data_dir: Path) -> Mended:
    """Take out of the incremental files what the store could not read. Nobody else may be at them.

    NULs between two commands go alone. What is broken otherwise goes with all that follows it, in later files too: a
    command is worth nothing without those before it. A file is replaced in one step, and is never half mended.

    Raises:
        OSError: they cannot be read or written; a full disk, say.
    """
    empty = lost = 0
    for path in in_use(data_dir, "i"):
        length = path.stat().st_size
        sound, nuls = ([], 0) if lost else _sound(path)
        kept = sum(end - start for start, end in sound)
        empty += nuls
        lost += length - kept - nuls
        if kept < length:
            _keep(path, sound, data_dir / "temp-mended.aof")
    return Mended(empty, lost)


def _sound(path: Path) -> tuple[list[tuple[int, int]], int]:
    """The spans of whole commands and whole transactions → with the number of NULs between and behind them."""
    # Read, not mapped: a mapped page that the disk cannot give ends the process, where a read is an OSError.
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        spans, nuls, start, at = list[tuple[int, int]](), 0, 0, 0
        # What to go back to where a transaction does not end: the state before it.
        before: tuple[list[tuple[int, int]], int] | None = None
        with contextlib.suppress(_Broken):
            while at < size:
                if hole := _hole(file, at):
                    spans.append((start, at))
                    nuls += hole
                    start = at = at + hole
                    continue
                name = _command(file, size)
                if name == b"MULTI":
                    before = ([*spans, (start, at)], nuls)
                elif name == b"EXEC":
                    before = None
                at = file.tell()
        return before or ([*spans, (start, at)], nuls)


def _hole(file: BinaryIO, at: int) -> int:
    """How many NULs there are from here on; the file is then behind them."""
    nuls = 0
    while chunk := file.read(1 if not nuls else _CHUNK_BYTES):
        found = len(chunk) - len(chunk.lstrip(b"\0"))
        nuls += found
        if found < len(chunk):
            break
    file.seek(at + nuls)
    return nuls


def _command(file: BinaryIO, size: int) -> bytes:
    """The name of the command that begins here; the file is then behind it."""
    line = _line(file)
    if line[:1] == b"#":  # An annotation: one line.
        return b""
    name = b""
    for index in range(_number(line, b"*")):
        length = _number(_line(file), b"$")
        if length > size - file.tell():
            raise _Broken
        if index == 0:
            name = file.read(length).upper()
        else:
            file.seek(length, os.SEEK_CUR)
        if file.read(2) != b"\r\n":
            raise _Broken
    return name


def _number(line: bytes, mark: bytes) -> int:
    digits = line[1:-2]
    if line[:1] != mark or not digits.isdigit():
        raise _Broken
    return int(digits)


def _line(file: BinaryIO) -> bytes:
    # No line of a length, nor of a time, is longer.
    line = file.readline(64)
    if not line.endswith(b"\r\n"):
        raise _Broken
    return line


def _keep(path: Path, spans: list[tuple[int, int]], temporary: Path) -> None:
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
