"""Several workers on every kind of address."""

import sys

import pytest

from tests.process.test_refused_start import refused_with
from tests.process.test_workers import SERVING, WORKERS, a_channel_each, health, several
from tests.support import free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux distributes a port's connections")


@pytest.mark.parametrize("host", ["localhost", "[::1]", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]"])
def test_workers_share_any_address(host: str) -> None:
    """Workers share a name, an IPv6 address or all interfaces, and no other sidecar can listen there."""
    address = f"{host}:{free_port()}"
    with several(listen=address, flags=["--insecure-listen"]) as sidecar:
        with a_channel_each(sidecar) as each:
            assert {health(channel) for channel in each.values()} == {SERVING}
        assert sidecar.log.count("other machines") <= 1, "one warning per worker"
        refused_with(address, ["--listen", address, "--insecure-listen", *WORKERS])
