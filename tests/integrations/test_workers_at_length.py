"""Workers on every kind of address: a sidecar of several processes for each."""

import sys

import pytest

from tests.refused_starts import assert_refused
from tests.support import free_port
from tests.worker_processes import SERVING, WORKERS, channel_per_worker, health, sidecar_with_workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shares out a port's connections")


@pytest.mark.parametrize("host", ["localhost", "[::1]", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]"])
def test_any_host_can_be_shared(host: str) -> None:
    """A name, IPv6, all interfaces: workers share what one process would listen on, and nobody else gets it."""
    address = f"{host}:{free_port()}"
    with sidecar_with_workers(listen=address, flags=["--insecure-listen"]) as sidecar:
        with channel_per_worker(sidecar) as each:
            assert {health(channel) for channel in each.values()} == {SERVING}
        assert sidecar.log.count("other machines") <= 1, "a warning for each worker"
        assert_refused(address, ["--listen", address, "--insecure-listen", *WORKERS])
