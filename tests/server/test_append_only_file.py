"""Repair of the embedded store's append-only file, which removes only unreadable parts."""

from pathlib import Path

import pytest
from session_notes_server.embedded import append_only_file
from session_notes_server.embedded.append_only_file import Repair


def command(*words: bytes) -> bytes:
    """Return a command in Valkey's format."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


SET, PUSH = command(b"SET", b"a", b"1\0\r\n*"), command(b"RPUSH", b"b", b"\0\0", b"")
MULTI, EXEC = command(b"MULTI"), command(b"EXEC")
HOLE = bytes(100)


@pytest.mark.parametrize(
    ("before", "after", "nul_bytes"),
    [
        (b"", b"", 0),
        (SET + PUSH, SET + PUSH, 0),
        (b"#TS:1700000000\r\n" + SET, b"#TS:1700000000\r\n" + SET, 0),
        (SET + HOLE + PUSH, SET + PUSH, 100),
        (HOLE + SET + b"\0" + PUSH + HOLE, SET + PUSH, 201),
        (MULTI + SET + HOLE + PUSH + EXEC + SET, MULTI + SET + PUSH + EXEC + SET, 100),
        # An incomplete command is removed, and everything after it.
        (SET + PUSH[:-1], SET, 0),
        (SET + PUSH[:9] + HOLE + SET, SET, 0),
        (SET + b"nonsense" + SET, SET, 0),
        (SET + b"*x\r\n" + SET, SET, 0),
        (SET + PUSH.replace(b"$5", b"$4") + SET, SET, 0),
        # An unfinished transaction is also removed.
        (SET + MULTI + PUSH + HOLE + SET, SET, 0),
        (SET + MULTI + SET + EXEC + HOLE + MULTI + PUSH, SET + MULTI + SET + EXEC, 100),
    ],
)
def test_a_repair_keeps_complete_commands(before: bytes, after: bytes, nul_bytes: int, tmp_path: Path) -> None:
    """A repair removes NULs between commands, and everything after an unreadable byte, later files included."""
    folder = tmp_path / "appendonlydir"
    folder.mkdir()
    (folder / "appendonly.aof.manifest").write_text(
        "file base.rdb seq 2 type b\nfile old seq 1 type h\nfile 1.aof seq 1 type i\nfile 2.aof seq 2 type i\n"
    )
    base, old, first, second = (folder / name for name in ("base.rdb", "old", "1.aof", "2.aof"))
    for path, content in ((base, b"VALKEY"), (old, HOLE), (first, before), (second, PUSH)):
        path.write_bytes(content)
    assert append_only_file.size(append_only_file.in_use(tmp_path)) == len(b"VALKEY" + before + PUSH)
    lost = len(before) - len(after) - nul_bytes
    assert append_only_file.repair(tmp_path) == Repair(nul_bytes, lost + (len(PUSH) if lost else 0))
    assert first.read_bytes() == after
    assert second.read_bytes() == (b"" if lost else PUSH)
    assert (base.read_bytes(), old.read_bytes()) == (b"VALKEY", HOLE)
    assert append_only_file.repair(tmp_path) == Repair(0, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["appendonlydir"]


def test_a_new_data_directory_needs_no_repair(tmp_path: Path) -> None:
    """A data directory without files has size 0, and a repair changes nothing."""
    assert append_only_file.size(append_only_file.in_use(tmp_path)) == 0
    assert append_only_file.repair(tmp_path) == Repair(0, 0)
