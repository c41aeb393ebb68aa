"""Where the sidecar listens: nobody from outside gets at it unless somebody said so."""

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


def test_an_address_for_everybody_is_refused(tmp_path: Path) -> None:
    """Without TLS and authentication, the sidecar does not start where others can reach it, and says what to do."""
    status, text = run_serve("--listen", "0.0.0.0:0", "--data-dir", str(tmp_path / "data"))
    assert status == 2
    for word in ("0.0.0.0:0", "--tls-cert", "--tls-key", "--tokens-dir", "--tls-client-ca", "--insecure-listen"):
        assert word in text
    assert "listening" not in text
    assert "Traceback" not in text
    assert not (tmp_path / "data").exists(), "it started a store"


OTHERS = [
    pytest.param("0.0.0.0", id="every IPv4 address"),
    pytest.param("[::]", id="every address"),
    pytest.param("", id="no host, which gRPC takes for every address"),
    pytest.param("0", id="0, which resolves to 0.0.0.0"),
    pytest.param("192.0.2.1", id="an IPv4 address"),
    pytest.param("[2001:db8::1]", id="an IPv6 address"),
    pytest.param("[::ffff:192.0.2.1]", id="an IPv4 address in IPv6"),
    pytest.param("169.254.1.1", id="a link-local address"),
    pytest.param("10.0.0.1", id="a private address"),
]
CERTIFIED = {"tls_cert": Path("cert"), "tls_key": Path("key")}


@pytest.mark.parametrize("host", OTHERS)
def test_others_get_in_with_tls_and_credentials_alone(host: str) -> None:
    """Any address but loopback needs TLS and authentication: one of them is not enough."""
    address = (f"{host}:{PORT}",)
    for half in ({}, CERTIFIED, {"tokens_dir": Path("tokens")}):
        with pytest.raises(InvalidSetting, match="--insecure-listen"):
            check_addresses(Settings(listen=("127.0.0.1:0", *address), **half))  # type: ignore[arg-type]
    check_addresses(Settings(listen=address, **CERTIFIED, tokens_dir=Path("tokens")))  # type: ignore[arg-type]
    check_addresses(Settings(listen=address, **CERTIFIED, tls_client_ca=Path("ca")))  # type: ignore[arg-type]
    check_addresses(Settings(listen=address, insecure_listen=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "[::1]", "localhost"])
def test_loopback_needs_nothing(host: str) -> None:
    """This machine's own addresses are as before."""
    check_addresses(Settings(listen=(f"{host}:{PORT}",)))


def test_a_name_counts_as_what_it_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that stands for a loopback address and another one is open to others."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("127.0.0.1", "192.0.2.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(InvalidSetting, match="--insecure-listen"):
        check_addresses(Settings(listen=(f"both.example.org:{PORT}",)))


@pytest.mark.parametrize("address", [f"unix-abstract:{PORT}", f"dns:///0.0.0.0:{PORT}", f"nowhere.invalid:{PORT}"])
def test_other_ways_to_write_an_address_are_refused(address: str) -> None:
    """Addresses that gRPC would understand, and this check would not, are none."""
    with pytest.raises(AddressError, match="cannot listen"):
        check_addresses(Settings(listen=(address,)))


def test_told_so_by_name() -> None:
    """`--insecure-listen` opens it, and the log says so."""
    flags = ["--insecure-listen"]
    with Sidecar(flags=flags, listen=f"0.0.0.0:{free_port()}", wait=False) as sidecar:
        port = sidecar.target.rpartition(":")[2]
        with new_channel(f"127.0.0.1:{port}") as channel:
            eventually(lambda: get_notes_code(channel) is grpc.StatusCode.OK)
        assert "can be reached from other machines" in sidecar.log


def test_tls_and_tokens_open_it(authority: Authority, tokens_dir: Path) -> None:
    """With both, no further word is needed; a unix socket beside it asks for the token too, and is not encrypted."""
    mine = authority.issue("open", "localhost", "127.0.0.1")
    socket_path = tokens_dir.parent / "s"
    flags = ["--tls-cert", str(mine.cert), "--tls-key", str(mine.key), "--tokens-dir", str(tokens_dir)]
    flags += ["--listen", f"unix:{socket_path}"]
    with Sidecar(flags=flags, listen=f"0.0.0.0:{free_port()}", wait=False) as sidecar:
        port = sidecar.target.rpartition(":")[2]
        with (
            encrypted_channel(f"127.0.0.1:{port}", authority) as channel,
            new_channel(f"unix:{socket_path}") as local,
        ):
            for one in (channel, local):
                eventually(lambda one=one: get_notes_code(one, TOKENS["primary"]) is grpc.StatusCode.OK)  # type: ignore[misc]
                assert get_notes_code(one) is grpc.StatusCode.UNAUTHENTICATED
        assert stat.S_IMODE(socket_path.stat().st_mode) == 0o600


def test_a_unix_socket_without_tokens_is_no_use_among_certificates() -> None:
    """Where certificates alone say who calls, nobody could call through a unix socket: that is refused."""
    settings = Settings(listen=("unix:/run/s",), **CERTIFIED, tls_client_ca=Path("ca"))  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="--tokens-dir"):
        check_addresses(settings)


def test_a_directory_that_others_can_change_is_refused(tmp_path: Path) -> None:
    """Somebody else could put a socket of theirs in the place of ours there; in a sticky directory nobody can."""
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


def test_a_directory_that_is_missing_is_made_private(tmp_path: Path) -> None:
    """So a volume that everybody may change, as containers share them, can hold the socket. Only the last folder is."""
    shared = tmp_path / "v"
    shared.mkdir()
    shared.chmod(0o777)
    with Sidecar(listen=f"unix:{shared}/own/s") as sidecar:
        assert sidecar.running
        assert stat.S_IMODE((shared / "own").stat().st_mode) == 0o700
    status, text = run_serve("--listen", f"unix:{shared}/no/such/s")
    assert status == 1
    assert "No such file or directory" in text
