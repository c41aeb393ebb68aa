"""What is broken in the embedded store's append-only file is taken out of it, and no more."""

from pathlib import Path

import pytest
from session_notes_server.embedded import append_only_file
from session_notes_server.embedded.append_only_file import Repair


def command(*words: bytes) -> bytes:
    """A command as Valkey writes it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


ONE, TWO = command(b"SET", b"a", b"1\0\r\n*"), command(b"RPUSH", b"b", b"\0\0", b"")
MULTI, EXEC = command(b"MULTI"), command(b"EXEC")
HOLE = bytes(100)


@pytest.mark.parametrize(
    ("before", "after", "empty"),
    [
        (b"", b"", 0),
        (ONE + TWO, ONE + TWO, 0),
        (b"#TS:1700000000\r\n" + ONE, b"#TS:1700000000\r\n" + ONE, 0),
        (ONE + HOLE + TWO, ONE + TWO, 100),
        (HOLE + ONE + b"\0" + TWO + HOLE, ONE + TWO, 201),
        (MULTI + ONE + HOLE + TWO + EXEC + ONE, MULTI + ONE + TWO + EXEC + ONE, 100),
        # What is not whole, and all after it.
        (ONE + TWO[:-1], ONE, 0),
        (ONE + TWO[:9] + HOLE + ONE, ONE, 0),
        (ONE + b"nonsense" + ONE, ONE, 0),
        (ONE + b"*x\r\n" + ONE, ONE, 0),
        (ONE + TWO.replace(b"$5", b"$4") + ONE, ONE, 0),
        # A transaction that does not end never happened.
        (ONE + MULTI + TWO + HOLE + ONE, ONE, 0),
        (ONE + MULTI + ONE + EXEC + HOLE + MULTI + TWO, ONE + MULTI + ONE + EXEC, 100),
    ],
)
def test_what_is_kept(before: bytes, after: bytes, empty: int, tmp_path: Path) -> None:
    """Whole commands stay, NULs between them go; from the first thing that cannot be read on, nothing stays, in later
    files neither."""
    folder = tmp_path / "appendonlydir"
    folder.mkdir()
    (folder / "appendonly.aof.manifest").write_text(
        "file base.rdb seq 2 type b\nfile old seq 1 type h\nfile 1.aof seq 1 type i\nfile 2.aof seq 2 type i\n"
    )
    base, old, first, second = (folder / name for name in ("base.rdb", "old", "1.aof", "2.aof"))
    for path, content in ((base, b"VALKEY"), (old, HOLE), (first, before), (second, TWO)):
        path.write_bytes(content)
    assert append_only_file.size(append_only_file.in_use(tmp_path)) == len(b"VALKEY" + before + TWO)
    lost = len(before) - len(after) - empty
    assert append_only_file.repair(tmp_path) == Repair(empty, lost + (len(TWO) if lost else 0))
    assert first.read_bytes() == after
    assert second.read_bytes() == (b"" if lost else TWO)
    assert (base.read_bytes(), old.read_bytes()) == (b"VALKEY", HOLE)
    assert append_only_file.repair(tmp_path) == Repair(0, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["appendonlydir"]


def test_nothing_is_there_yet(tmp_path: Path) -> None:
    """A data directory without a file is no fault."""
    assert append_only_file.size(append_only_file.in_use(tmp_path)) == 0
    assert append_only_file.repair(tmp_path) == Repair(0, 0)
