"""Several workers on every kind of address."""

import sys

import pytest

from tests.refused_starts import assert_refused
from tests.support import free_port
from tests.worker_processes import SERVING, WORKERS, channel_per_worker, health, sidecar_with_workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux distributes a port's connections")


@pytest.mark.parametrize("host", ["localhost", "[::1]", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]"])
def test_workers_share_any_address(host: str) -> None:
    """Workers share a name, an IPv6 address or all interfaces, and no other sidecar can listen there."""
    address = f"{host}:{free_port()}"
    with sidecar_with_workers(listen=address, flags=["--insecure-listen"]) as sidecar:
        with channel_per_worker(sidecar) as channels:
            assert {health(channel) for channel in channels.values()} == {SERVING}
        assert sidecar.log.count("other machines") <= 1, "one warning per worker"
        assert_refused(address, ["--listen", address, "--insecure-listen", *WORKERS])
