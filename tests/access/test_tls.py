"""TLS: authentication in both directions, and rotation of certificates without a restart."""

import asyncio
from pathlib import Path

import grpc
import pytest
from session_notes_server.identity.trusted_files import CredentialsError
from session_notes_server.settings import InvalidSetting, Settings
from session_notes_server.sidecar import sidecar

from tests.access.callers import (
    TOKENS,
    Authority,
    bearer,
    encrypted_channel,
    get_notes_code,
    is_serving,
    outcome,
    write_secret,
)
from tests.support import Sidecar, eventually, new_channel

OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE
UNAUTHENTICATED, PERMISSION_DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED


def allowed(channel: grpc.Channel, token: str | None = None) -> list[grpc.StatusCode]:
    """Return the status of GetNotes, AppendTurns, BeginRun and ListSessions. INVALID_ARGUMENT counts as OK."""
    methods = (
        "SessionNotes/GetNotes",
        "SessionState/AppendTurns",
        "SessionNotes/BeginRun",
        "SessionState/ListSessions",
    )
    codes = [outcome(channel, f"/session_notes.v1.{name}", metadata=bearer(token)).code for name in methods]
    return [OK if code is grpc.StatusCode.INVALID_ARGUMENT else code for code in codes]


PRIMARY = [OK, OK, PERMISSION_DENIED, PERMISSION_DENIED]
OBSERVER = [OK, PERMISSION_DENIED, OK, PERMISSION_DENIED]


def test_a_certificate_has_a_role(mtls_sidecar: Sidecar, authority: Authority) -> None:
    """A DNS name, a URI or a CN of a certificate determines its role. An unlisted name has none."""
    primary = authority.issue("primary", "other.example.org", "primary.example.org")
    with encrypted_channel(mtls_sidecar.target, authority, primary) as channel:
        assert allowed(channel) == PRIMARY
    observer = authority.issue_for_uri("observer", "spiffe://example.org/observer")
    with encrypted_channel(mtls_sidecar.target, authority, observer) as channel:
        assert allowed(channel) == OBSERVER
    admin = authority.issue("admin", common_name="the-admin")
    with encrypted_channel(mtls_sidecar.target, authority, admin) as channel:
        assert allowed(channel) == [OK] * 4
    for name in ("example.org", "x.primary.example.org", "primary.example.org.evil.org"):
        with encrypted_channel(mtls_sidecar.target, authority, authority.issue("unlisted", name)) as channel:
            assert allowed(channel) == [UNAUTHENTICATED] * 4


def test_a_certificate_of_two_roles_has_none(mtls_sidecar: Sidecar, authority: Authority) -> None:
    """A certificate whose names have two roles has none, because the choice would be arbitrary."""
    both = authority.issue("both", "primary.example.org", common_name="the-admin")
    with encrypted_channel(mtls_sidecar.target, authority, both) as channel:
        assert allowed(channel) == [UNAUTHENTICATED] * 4


def test_a_token_takes_precedence_over_the_certificate(mtls_sidecar: Sidecar, authority: Authority) -> None:
    """With both, the token determines the role. An unknown token is rejected, whatever the certificate."""
    primary = authority.issue("primary", "primary.example.org")
    with encrypted_channel(mtls_sidecar.target, authority, primary) as channel:
        assert allowed(channel, TOKENS["observer"]) == OBSERVER
        assert allowed(channel, "an-unknown-token") == [UNAUTHENTICATED] * 4


def test_a_connection_requires_a_certificate(mtls_sidecar: Sidecar, authority: Authority, tmp_path: Path) -> None:
    """Without a certificate from the authority, or without TLS, no call is possible, not even a health check."""
    stranger = Authority(tmp_path / "other").issue("stranger", "primary.example.org")
    for client in (None, stranger):
        with encrypted_channel(mtls_sidecar.target, authority, client) as channel:
            assert get_notes_code(channel, TOKENS["admin"]) is UNAVAILABLE
            assert not is_serving(channel)
    with new_channel(mtls_sidecar.target) as channel:
        assert get_notes_code(channel, TOKENS["admin"]) is UNAVAILABLE


def test_a_client_rejects_another_authority(mtls_sidecar: Sidecar, authority: Authority, tmp_path: Path) -> None:
    """A client does not call a sidecar whose certificate comes from another authority."""
    primary = authority.issue("primary", "primary.example.org")
    with encrypted_channel(mtls_sidecar.target, Authority(tmp_path / "other"), primary) as channel:
        assert get_notes_code(channel) is UNAVAILABLE


def test_certificates_and_roles_change_without_a_restart(tmp_path: Path) -> None:
    """New connections use a new certificate. A key that does not match is logged, and the last valid pair stays in use.
    A new client authority and new roles also take effect."""
    before, after = Authority(tmp_path / "before"), Authority(tmp_path / "after")
    served = before.issue("served", "localhost", "127.0.0.1")
    roles = write_secret(tmp_path / "roles", "primary caller.example.org")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(before.path.read_bytes())
    flags = ["--tls-cert", str(served.cert), "--tls-key", str(served.key), "--tls-client-ca", str(trusted)]
    with Sidecar(flags=[*flags, "--tls-roles", str(roles)], wait=False) as sidecar:

        def code(server: Authority, client: Authority) -> grpc.StatusCode:
            caller = client.issue("caller", "caller.example.org")
            with encrypted_channel(sidecar.target, server, caller) as channel:
                return get_notes_code(channel)

        eventually(lambda: code(before, before) is OK)
        assert code(after, before) is UNAVAILABLE

        new = after.issue("served", "localhost", "127.0.0.1")
        served.cert.write_bytes(new.cert.read_bytes())
        eventually(lambda: code(before, before) is OK and "are not a certificate and its key" in sidecar.log)
        served.key.write_bytes(new.key.read_bytes())
        eventually(lambda: code(after, before) is OK)
        assert code(before, before) is UNAVAILABLE

        trusted.write_bytes(after.path.read_bytes())
        eventually(lambda: code(after, after) is OK)
        assert code(after, before) is UNAVAILABLE

        caller = after.issue("caller", "caller.example.org")
        with encrypted_channel(sidecar.target, after, caller) as channel:
            assert allowed(channel) == PRIMARY
            write_secret(roles, "observer caller.example.org")
            eventually(lambda: allowed(channel) == OBSERVER)
        assert "PRIVATE KEY" not in sidecar.log


def test_inconsistent_settings_are_refused(authority: Authority, tokens_dir: Path, tmp_path: Path) -> None:
    """Incomplete or inconsistent TLS settings are refused with an error that names the fault."""
    pair = authority.issue("pair", "localhost")
    other = authority.issue("other", "localhost")
    cert, key, ca = pair.cert, pair.key, authority.path
    open_key = tmp_path / "open.key"
    open_key.write_bytes(pair.key.read_bytes())
    open_key.chmod(0o644)
    tls = {"tls_cert": cert, "tls_key": key}
    no_roles = write_secret(tmp_path / "no-roles", "boss caller.example.org")
    settings: list[tuple[dict[str, Path], str]] = [
        ({"tls_cert": cert}, "--tls-key"),
        ({"tls_client_ca": ca, "tokens_dir": tokens_dir}, "--tls-cert"),
        ({"tls_cert": cert, "tls_key": other.key}, "are not a certificate and its key"),
        ({"tls_cert": cert, "tls_key": open_key}, "has mode 0644"),
        ({"tls_cert": cert, "tls_key": tmp_path / "gone"}, "does not exist"),
        (tls | {"tls_client_ca": ca}, "--tls-roles"),
        (tls | {"tls_roles": no_roles}, "--tls-client-ca"),
        (tls | {"tls_client_ca": ca, "tls_roles": no_roles}, "line 1 of"),
        (tls | {"tls_client_ca": key, "tokens_dir": tokens_dir}, "contains no CA certificate"),
    ]
    for given, message in settings:
        with pytest.raises((CredentialsError, InvalidSetting), match=message) as raised:
            asyncio.run(sidecar.serve(Settings(listen=("127.0.0.1:0",), data_dir=tmp_path / "never", **given)))  # type: ignore[arg-type]
        assert "PRIVATE KEY" not in str(raised.value)
    assert not (tmp_path / "never").exists()
