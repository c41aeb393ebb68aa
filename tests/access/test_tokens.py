"""Token files: rotation without a restart, and files that cannot be trusted."""

import hashlib
import os
from pathlib import Path

import grpc
import pytest
from session_notes_server.identity import trusted_files
from session_notes_server.identity.callers import Tokens, plain_token
from session_notes_server.identity.roles import Role
from session_notes_server.identity.trusted_files import CredentialsError
from session_notes_server.sidecar.http_listener import HttpListener

from tests.access.callers import TOKENS, get_notes_code, write_secret
from tests.refused_starts import run_serve
from tests.support import Sidecar, eventually, free_port, new_channel

OK, UNAUTHENTICATED = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED
OLD, NEW = TOKENS["primary"], "canary-primary-2-77aa"


def role_of(tokens: Tokens, token: str) -> str | None:
    """Return the role of a token; None if it has none."""
    caller = tokens.caller_of(token)
    return caller.role if caller is not None else None


def hash_of(token: str) -> str:
    """Return the line for a token's hash in a token file."""
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


def test_a_token_is_rotated_without_a_restart(tokens_dir: Path) -> None:
    """A new token is accepted before the old one is revoked. A file that cannot be trusted changes nothing, and is
    logged without its content. Deleting a file revokes its tokens."""
    with (
        Sidecar(flags=["--tokens-dir", str(tokens_dir), "--verbose"]) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        assert (get_notes_code(channel, OLD), get_notes_code(channel, NEW)) == (OK, UNAUTHENTICATED)

        write_secret(tokens_dir / "primary", "# the old one, then the new one", f"  {OLD}  ", "", hash_of(NEW))
        eventually(lambda: get_notes_code(channel, NEW) is OK)
        assert get_notes_code(channel, OLD) is OK

        write_secret(tokens_dir / "primary", NEW)
        eventually(lambda: get_notes_code(channel, OLD) is UNAUTHENTICATED)
        assert get_notes_code(channel, NEW) is OK

        # A file that others can read is not used.
        (tokens_dir / "primary").write_text(f"{OLD}\n")
        (tokens_dir / "primary").chmod(0o644)
        eventually(lambda: get_notes_code(channel, NEW) is OK and "has mode 0644" in sidecar.log)
        assert get_notes_code(channel, OLD) is UNAUTHENTICATED
        (tokens_dir / "primary").chmod(0o600)
        eventually(lambda: get_notes_code(channel, OLD) is OK)
        assert get_notes_code(channel, NEW) is UNAUTHENTICATED

        (tokens_dir / "primary").unlink()
        eventually(lambda: get_notes_code(channel, OLD) is UNAUTHENTICATED)
        assert get_notes_code(channel, TOKENS["observer"]) is OK

        assert "canary" not in sidecar.log


@pytest.mark.parametrize(
    ("role", "content", "mode", "message"),
    [
        pytest.param("primary", OLD, 0o644, "has mode 0644", id="others can read it"),
        pytest.param("primary", OLD, 0o640, "has mode 0640", id="its group can read it"),
        pytest.param("primary", "", 0o600, "no token in", id="no token"),
        pytest.param("primaries", OLD, 0o600, "no token in", id="a file of another name"),
        pytest.param("primary", f"x\n{OLD} 2", 0o600, "line 2 of", id="a space"),
        pytest.param("primary", "sha256:canary", 0o600, "line 1 of", id="not a hash"),
        pytest.param("primary", "canary-\u00fc", 0o600, "line 1 of", id="not ASCII"),
        pytest.param("primary", f"{OLD}\n{hash_of('')}", 0o600, "line 2 of", id="the hash of an empty token"),
        pytest.param("primary", f"{OLD}\n{NEW} prefix=", 0o600, "line 2 of", id="an empty prefix"),
        pytest.param("primary", f"{OLD} prefix=a prefix=", 0o600, "line 1 of", id="a second prefix, empty"),
        pytest.param("primary", f"{OLD} prefix=ü", 0o600, "line 1 of", id="a prefix that is not ASCII"),
        pytest.param("primary", f"{OLD} prefix={{a", 0o600, "line 1 of", id="a prefix with a brace"),
        pytest.param("primary", f"{OLD} prefix={'a' * 257}", 0o600, "line 1 of", id="a prefix longer than an id"),
        pytest.param("primary", f"{OLD} prefix=canary a", 0o600, "line 1 of", id="a prefix with a space"),
        pytest.param("primary", f"{OLD} Prefix=a", 0o600, "line 1 of", id="another name"),
        pytest.param("primary", f"{OLD} # a comment", 0o600, "line 1 of", id="a comment behind a token"),
        pytest.param("primary", f"{OLD}\nprefix=a.", 0o600, "line 2 of", id="a prefix without a token"),
        pytest.param("primary", f"{OLD}\n{OLD} prefix=a", 0o600, "line 2 of", id="a token with and without a prefix"),
        pytest.param("primary", f"{hash_of(OLD)} prefix=a\n{OLD} prefix=b", 0o600, "line 2 of", id="other prefixes"),
    ],
)
def test_unusable_files_are_refused_at_startup(
    tmp_path: Path, role: str, content: str, mode: int, message: str
) -> None:
    """The error names the file and the line, and does not quote the content."""
    file = write_secret(tmp_path / role, content)
    file.chmod(mode)
    with pytest.raises(CredentialsError) as raised:
        Tokens(tmp_path)
    text = str(raised.value)
    assert message in text
    assert str(tmp_path) in text
    assert "canary" not in text


def test_a_token_is_limited_without_a_restart(tokens_dir: Path) -> None:
    """A prefix that is added to a token or removed takes effect without a restart. An invalid one does not."""
    with (
        Sidecar(flags=["--tokens-dir", str(tokens_dir), "--verbose"]) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        assert get_notes_code(channel, OLD) is OK
        write_secret(tokens_dir / "primary", f"{OLD} prefix=acme.")
        eventually(lambda: get_notes_code(channel, OLD) is PERMISSION_DENIED)
        write_secret(tokens_dir / "primary", f"{OLD} prefix=")
        eventually(lambda: get_notes_code(channel, OLD) and "line 1 of" in sidecar.log)
        assert get_notes_code(channel, OLD) is PERMISSION_DENIED
        # The ids of all tests begin so.
        write_secret(tokens_dir / "primary", f"{OLD} prefix=acme. prefix=session-")
        eventually(lambda: get_notes_code(channel, OLD) is OK)
        write_secret(tokens_dir / "primary", OLD)
        eventually(lambda: "reloaded" in sidecar.log.rpartition("line 1 of")[2])
        assert get_notes_code(channel, OLD) is OK


def test_a_session_is_checked_before_the_store(tokens_dir: Path) -> None:
    """Without a store, a call for another session is denied, and one for an allowed session is UNAVAILABLE."""
    write_secret(tokens_dir / "primary", f"{OLD} prefix=session-")
    write_secret(tokens_dir / "observer", f"{NEW} prefix=acme.")
    flags = ["--tokens-dir", str(tokens_dir), "--notes-timeout", "80ms", "--store-timeout", "200ms"]
    with (
        Sidecar(f"redis://127.0.0.1:{free_port()}", flags=flags, wait=False) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        assert get_notes_code(channel, OLD) is grpc.StatusCode.UNAVAILABLE
        assert get_notes_code(channel, NEW) is PERMISSION_DENIED


def test_a_limited_token_may_not_use_mcp(tokens_dir: Path) -> None:
    """The HTTP address of `mcp`, which serves every session, does not accept a token for some sessions."""
    listener = HttpListener("127.0.0.1:0", tokens_dir, None, None)
    assert [listener.accepts_token(token) for token in (*TOKENS.values(), NEW)] == [True, False, True, False]
    write_secret(tokens_dir / "admin", f"{TOKENS['admin']} prefix=acme.", NEW)
    listener = HttpListener("127.0.0.1:0", tokens_dir, None, None)
    assert [listener.accepts_token(token) for token in (*TOKENS.values(), NEW)] == [True, False, False, True]


def test_sample_calls_use_no_limited_token(tokens_dir: Path) -> None:
    """A file that begins with a limited token is skipped, because clients read a token that is alone on its line."""
    assert plain_token(tokens_dir, [Role.PRIMARY, Role.ADMIN]) == (tokens_dir / "primary", 1)
    write_secret(tokens_dir / "primary", f"{OLD} prefix=acme.")
    assert plain_token(tokens_dir, [Role.PRIMARY, Role.ADMIN]) == (tokens_dir / "admin", 1)


def test_a_fault_is_logged_once(
    tokens_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault is logged once, and its correction once, however many calls check the tokens."""
    monkeypatch.setattr(trusted_files, "RELOAD_SECONDS", 0)
    tokens = Tokens(tokens_dir)
    with caplog.at_level("INFO"):
        (tokens_dir / "primary").chmod(0o644)
        assert [role_of(tokens, OLD) for _ in range(3)] == ["primary"] * 3
        (tokens_dir / "primary").chmod(0o600)
        assert [role_of(tokens, OLD) for _ in range(3)] == ["primary"] * 3
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


@pytest.mark.parametrize("broken", ["observer", "admin"])
def test_a_token_is_revoked_while_another_file_is_broken(
    tokens_dir: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """A token is revoked and a new one accepted, while the tokens of the broken file stay valid."""
    monkeypatch.setattr(trusted_files, "RELOAD_SECONDS", 0)
    tokens = Tokens(tokens_dir)
    write_secret(tokens_dir / broken, "not a token")
    write_secret(tokens_dir / "primary", NEW)
    assert (role_of(tokens, OLD), role_of(tokens, NEW)) == (None, "primary")
    assert role_of(tokens, TOKENS[broken]) == broken
    (tokens_dir / "primary").unlink()
    assert role_of(tokens, NEW) is None


def test_tokens_stay_valid_while_their_directory_is_missing(
    tokens_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the directory or the target of a link is missing, tokens stay valid, and the log names what is missing."""
    monkeypatch.setattr(trusted_files, "RELOAD_SECONDS", 0)
    tokens, moved = Tokens(tokens_dir), tokens_dir.with_name("moved")
    tokens_dir.rename(moved)
    assert [role_of(tokens, TOKENS[role]) for role in Role] == [*Role]
    assert f"the directory {tokens_dir} does not exist" in caplog.text
    tokens_dir.mkdir()
    for role in Role:
        (tokens_dir / role).symlink_to(moved / role)
    moved.rename(moved.with_name("elsewhere"))
    assert [role_of(tokens, TOKENS[role]) for role in Role] == [*Role]
    assert f"{tokens_dir / 'primary'} is a link to a file that does not exist" in caplog.text
    (tokens_dir / "primary").unlink()
    assert role_of(tokens, OLD) is None


def test_the_hash_of_an_empty_token_is_an_error(
    tokens_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The hash of an empty token grants no role, and the log names the file and the line."""
    monkeypatch.setattr(trusted_files, "RELOAD_SECONDS", 0)
    tokens = Tokens(tokens_dir)
    write_secret(tokens_dir / "primary", OLD, hash_of(""))
    assert (role_of(tokens, ""), role_of(tokens, OLD)) == (None, "primary")
    assert f"line 2 of {tokens_dir / 'primary'}" in caplog.text


def test_a_token_that_gets_a_second_role_keeps_its_first(
    tokens_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A token in two files is logged once. When it is removed from the first file, it gets the role of the second."""
    monkeypatch.setattr(trusted_files, "RELOAD_SECONDS", 0)
    tokens = Tokens(tokens_dir)
    write_secret(tokens_dir / "admin", TOKENS["admin"], OLD)
    assert [role_of(tokens, OLD) for _ in range(3)] == ["primary"] * 3
    assert caplog.text.count(f"line 2 of {tokens_dir / 'admin'} is a token that already has the role primary") == 1
    (tokens_dir / "primary").unlink()
    assert role_of(tokens, OLD) == "admin"


def test_a_pipe_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    """A named pipe is refused without blocking, because it is not a regular file."""
    os.mkfifo(tmp_path / "primary", 0o600)
    with pytest.raises(CredentialsError, match="is not a regular file"):
        Tokens(tmp_path)


def test_a_token_has_one_role(tokens_dir: Path) -> None:
    """The sidecar does not start if a token is in two files, even if one of them has only its hash."""
    write_secret(tokens_dir / "admin", hash_of(OLD))
    status, text = run_serve("--tokens-dir", str(tokens_dir))
    assert status > 0
    assert "already has the role primary" in text
    assert "canary" not in text
    assert "Traceback" not in text
