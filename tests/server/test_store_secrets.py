"""Credential files for Redis: unusable files are refused at startup, and changed files are reloaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from session_notes_server.identity.trusted_files import CredentialsError
from session_notes_server.settings import InvalidSetting
from session_notes_server.store import InvalidRedisURL, RedisSecrets, RedisTarget

from tests.access.callers import Authority, write_secret
from tests.refused_starts import SECRET, assert_refused


@pytest.fixture
def files(tmp_path: Path) -> Mapping[str, Path]:
    """Valid and invalid files, by name."""
    authority = Authority(tmp_path / "authority")
    pair, other = authority.issue("pair", "redis"), authority.issue("other", "redis")
    readable = write_secret(tmp_path / "readable", SECRET)
    readable.chmod(0o644)
    return {
        "password": write_secret(tmp_path / "password", SECRET),
        "readable": readable,
        "empty": write_secret(tmp_path / "empty"),
        "newline": write_secret(tmp_path / "newline", ""),
        "lines": write_secret(tmp_path / "lines", SECRET, SECRET),
        "missing": tmp_path / "missing",
        "folder": tmp_path,
        "ca": authority.path,
        "cert": pair.cert,
        "key": pair.key,
        "other_key": other.key,
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"password_file": "readable"}, "has mode 0644"),
        ({"password_file": "empty"}, "is empty"),
        ({"password_file": "newline"}, "is empty"),
        ({"password_file": "lines"}, "more than one line"),
        ({"password_file": "missing"}, "does not exist"),
        ({"password_file": "folder"}, "cannot read"),
        ({"sentinel_password_file": "folder"}, "cannot read"),
        ({"ca": "missing"}, "does not exist"),
        ({"ca": "key"}, "contains no CA certificate"),
        ({"cert": "cert", "key": "other_key"}, "are not a certificate and its key"),
    ],
)
def test_invalid_files_are_refused(files: Mapping[str, Path], given: Mapping[str, str], message: str) -> None:
    """The error names the file and the fault, and does not quote the content."""
    with pytest.raises(CredentialsError, match=message) as refused:
        RedisSecrets(**cast(Any, {name: files[file] for name, file in given.items()}))
    assert SECRET not in str(refused.value)
    assert "PRIVATE KEY" not in str(refused.value)


@pytest.mark.parametrize(("given", "message"), [("cert", "--redis-key"), ("key", "--redis-cert")])
def test_half_a_pair_is_an_invalid_setting(files: Mapping[str, Path], given: str, message: str) -> None:
    """A certificate without a key, or a key without a certificate, is refused."""
    with pytest.raises(InvalidSetting, match=message):
        RedisSecrets(**cast(Any, {given: files[given]}))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--redis-url", "redis://127.0.0.1:1", "--redis-ca", "ca"], "need TLS"),
        (["--redis-url", "redis+cluster://127.0.0.1:1", "--redis-ca", "ca"], "need TLS"),
        (["--redis-url", "unix:///tmp/s", "--redis-cert", "cert", "--redis-key", "key"], "need TLS"),
        (["--redis-url", f"redis://:{SECRET}@127.0.0.1:1", "--redis-password-file", "password"], "remove one"),
        (["--redis-password-file", "password"], "--redis-url"),
        (["--sentinel-password-file", "password"], "--redis-url"),
        (["--redis-url", "redis://127.0.0.1:1", "--sentinel-password-file", "password"], "redis+sentinel://"),
        (["--redis-url", "redis+sentinel://127.0.0.1:1/main", "--sentinel-user", "app"], "--sentinel-password-file"),
        (["--redis-ca", "ca"], "--redis-url"),
        (["--redis-url", "redis://127.0.0.1:1", "--redis-password-file", "empty"], "is empty"),
    ],
)
def test_conflicting_store_settings_are_refused(files: Mapping[str, Path], flags: list[str], message: str) -> None:
    """The sidecar refuses to start, rather than connect without the intended TLS. The error contains no secret."""
    arguments = [str(files[flag]) if flag in files else flag for flag in flags]
    text = assert_refused(message, arguments, code=1 if "empty" in flags else 2)
    assert SECRET not in text


@pytest.mark.parametrize(
    "query", ["ssl_cert_reqs=none", "ssl_check_hostname=false", "password=x", "db=1&ssl_ciphers=x"]
)
def test_a_url_cannot_disable_verification(query: str) -> None:
    """Options that redis-py would read from a URL are refused, except for the database."""
    with pytest.raises(InvalidRedisURL, match="nothing but db"):
        RedisTarget.parse(f"rediss://127.0.0.1:1?{query}")


def test_changed_files_take_effect_at_once(files: Mapping[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    """The next use reads a new password or certificate. An invalid file is logged once, and the last content stays."""
    secrets = RedisSecrets(password_file=files["password"], ca=files["ca"], cert=files["cert"], key=files["key"])
    assert secrets.password() == SECRET
    first = secrets.tls_context()
    assert secrets.tls_context() is first
    write_secret(files["password"], "another")
    assert secrets.password() == "another"
    write_secret(files["password"])
    for _ in range(3):
        assert secrets.password() == "another"
    Authority(files["ca"].parent)
    assert secrets.tls_context() is not first
    assert [record.levelname for record in caplog.records if record.levelno >= 30] == ["ERROR"]
    assert SECRET not in caplog.text
    assert "another" not in caplog.text
