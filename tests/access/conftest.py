"""A sidecar that requires tokens, and one that requires certificates."""

import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.access.callers import Authority, encrypted_channel, is_serving, token_files, write_secret
from tests.support import Sidecar, eventually, new_channel


@pytest.fixture(autouse=True)
def no_credentials_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove credentials of the user who runs the tests."""
    for name in list(os.environ):
        if name.startswith("SESSION_NOTES_T"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def token_sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A sidecar with the three tokens of `TOKENS`."""
    directory = token_files(tmp_path_factory.mktemp("access") / "tokens")
    with Sidecar(flags=["--tokens-dir", str(directory), "--verbose"]) as sidecar:
        yield sidecar


@pytest.fixture(scope="session")
def plain(token_sidecar: Sidecar) -> Iterator[grpc.Channel]:
    """A channel to the sidecar with tokens, without TLS."""
    with new_channel(token_sidecar.target) as channel:
        yield channel


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority trusted by the sidecar that requires certificates, and by its clients."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def mtls_sidecar(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A sidecar that requires client certificates, grants roles to some names, and accepts the tokens of `TOKENS`."""
    home = tmp_path_factory.mktemp("mtls")
    served = authority.issue("sidecar", "localhost", "127.0.0.1")
    roles = write_secret(
        home / "roles",
        "# a comment",
        "primary primary.example.org",
        "observer spiffe://example.org/observer",
        "",
        "admin the-admin",
    )
    flags = ["--tls-cert", str(served.cert), "--tls-key", str(served.key), "--tls-client-ca", str(authority.path)]
    flags += ["--tls-roles", str(roles), "--tokens-dir", str(token_files(home / "tokens")), "--verbose"]
    with Sidecar(flags=flags, wait=False) as sidecar:
        client = authority.issue("prober", "prober.example.org")
        with encrypted_channel(sidecar.target, authority, client) as channel:
            eventually(lambda: is_serving(channel), 30)
        yield sidecar


@pytest.fixture
def tokens_dir(tmp_path: Path) -> Path:
    """A directory with the tokens of `TOKENS`, for one test."""
    return token_files(tmp_path / "tokens")
