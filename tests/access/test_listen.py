"""Listening addresses: other machines can reach the sidecar only if that is safe, or with --insecure-listen."""

import socket
import stat
from pathlib import Path

import grpc
import pytest
from session_notes_server.addresses import AddressError
from session_notes_server.rpc.listening import check_addresses
from session_notes_server.settings import InvalidSetting, Settings

from tests.access.callers import TOKENS, Authority, encrypted_channel, get_notes_code
from tests.refused_starts import run_serve
from tests.support import Sidecar, eventually, free_port, new_channel

PORT = 50051


def test_an_address_on_the_network_is_refused(tmp_path: Path) -> None:
    """Without TLS and authentication, the sidecar does not start on a network address. The error lists remedies."""
    status, text = run_serve("--listen", "0.0.0.0:0", "--data-dir", str(tmp_path / "data"))
    assert status == 2
    for word in ("0.0.0.0:0", "--tls-cert", "--tls-key", "--tokens-dir", "--tls-client-ca", "--insecure-listen"):
        assert word in text
    assert "listening" not in text
    assert "Traceback" not in text
    assert not (tmp_path / "data").exists(), "a store was started"


NETWORK_HOSTS = [
    pytest.param("0.0.0.0", id="every IPv4 address"),
    pytest.param("[::]", id="every address"),
    pytest.param("", id="no host, which is every address to gRPC"),
    pytest.param("0", id="0, which resolves to 0.0.0.0"),
    pytest.param("192.0.2.1", id="an IPv4 address"),
    pytest.param("[2001:db8::1]", id="an IPv6 address"),
    pytest.param("[::ffff:192.0.2.1]", id="an IPv4 address in IPv6"),
    pytest.param("169.254.1.1", id="a link-local address"),
    pytest.param("10.0.0.1", id="a private address"),
]
TLS = {"tls_cert": Path("cert"), "tls_key": Path("key")}


@pytest.mark.parametrize("host", NETWORK_HOSTS)
def test_the_network_requires_tls_and_authentication(host: str) -> None:
    """Any address but loopback requires both TLS and authentication."""
    address = (f"{host}:{PORT}",)
    for insufficient in ({}, TLS, {"tokens_dir": Path("tokens")}):
        with pytest.raises(InvalidSetting, match="--insecure-listen"):
            check_addresses(Settings(listen=("127.0.0.1:0", *address), **insufficient))  # type: ignore[arg-type]
    check_addresses(Settings(listen=address, **TLS, tokens_dir=Path("tokens")))  # type: ignore[arg-type]
    check_addresses(Settings(listen=address, **TLS, tls_client_ca=Path("ca")))  # type: ignore[arg-type]
    check_addresses(Settings(listen=address, insecure_listen=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "[::1]", "localhost"])
def test_loopback_requires_nothing(host: str) -> None:
    """Loopback addresses require neither TLS nor authentication."""
    check_addresses(Settings(listen=(f"{host}:{PORT}",)))


def test_a_host_counts_as_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with both a loopback address and another address is on the network."""
    entries = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("127.0.0.1", "192.0.2.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)
    with pytest.raises(InvalidSetting, match="--insecure-listen"):
        check_addresses(Settings(listen=(f"both.example.org:{PORT}",)))


@pytest.mark.parametrize("address", [f"unix-abstract:{PORT}", f"dns:///0.0.0.0:{PORT}", f"nowhere.invalid:{PORT}"])
def test_other_forms_of_an_address_are_refused(address: str) -> None:
    """Forms of addresses that only gRPC understands, and not the check, are refused."""
    with pytest.raises(AddressError, match="cannot listen"):
        check_addresses(Settings(listen=(address,)))


def test_insecure_listen_overrides_the_check() -> None:
    """With `--insecure-listen` the sidecar starts, and the log warns."""
    flags = ["--insecure-listen"]
    with Sidecar(flags=flags, listen=f"0.0.0.0:{free_port()}", wait=False) as sidecar:
        port = sidecar.target.rpartition(":")[2]
        with new_channel(f"127.0.0.1:{port}") as channel:
            eventually(lambda: get_notes_code(channel) is grpc.StatusCode.OK)
        assert "can be reached from other machines" in sidecar.log


def test_tls_and_tokens_permit_the_network(authority: Authority, tokens_dir: Path) -> None:
    """With TLS and tokens, the sidecar starts. A unix socket in addition requires a token, but is not encrypted."""
    served = authority.issue("open", "localhost", "127.0.0.1")
    socket_path = tokens_dir.parent / "s"
    flags = ["--tls-cert", str(served.cert), "--tls-key", str(served.key), "--tokens-dir", str(tokens_dir)]
    flags += ["--listen", f"unix:{socket_path}"]
    with Sidecar(flags=flags, listen=f"0.0.0.0:{free_port()}", wait=False) as sidecar:
        port = sidecar.target.rpartition(":")[2]
        with (
            encrypted_channel(f"127.0.0.1:{port}", authority) as channel,
            new_channel(f"unix:{socket_path}") as local,
        ):
            for caller in (channel, local):
                eventually(lambda caller=caller: get_notes_code(caller, TOKENS["primary"]) is grpc.StatusCode.OK)  # type: ignore[misc]
                assert get_notes_code(caller) is grpc.StatusCode.UNAUTHENTICATED
        assert stat.S_IMODE(socket_path.stat().st_mode) == 0o600


def test_a_unix_socket_requires_tokens_next_to_certificates() -> None:
    """If certificates are the only credentials, a unix socket is refused, because its callers would be rejected."""
    settings = Settings(listen=("unix:/run/s",), **TLS, tls_client_ca=Path("ca"))  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="--tokens-dir"):
        check_addresses(settings)


def test_a_socket_directory_that_others_can_change_is_refused(tmp_path: Path) -> None:
    """A directory where another user could replace the socket is refused. A sticky directory is accepted."""
    shared = tmp_path / "shared"
    shared.mkdir()
    for mode in (0o777, 0o775):
        shared.chmod(mode)
        status, text = run_serve("--listen", f"unix:{shared}/s")
        assert status > 0
        assert "other users can change its directory" in text
        assert not (shared / "s").exists()
    shared.chmod(0o1777)
    with Sidecar(listen=f"unix:{shared}/s") as sidecar:
        assert sidecar.running


def test_a_missing_socket_directory_is_made_private(tmp_path: Path) -> None:
    """The socket's directory is created with mode 0700, even in a world-writable volume. Its parents must exist."""
    shared = tmp_path / "v"
    shared.mkdir()
    shared.chmod(0o777)
    with Sidecar(listen=f"unix:{shared}/own/s") as sidecar:
        assert sidecar.running
        assert stat.S_IMODE((shared / "own").stat().st_mode) == 0o700
    status, text = run_serve("--listen", f"unix:{shared}/no/such/s")
    assert status == 1
    assert "No such file or directory" in text
