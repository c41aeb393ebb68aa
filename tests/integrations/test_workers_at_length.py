"""Workers on every kind of address: a sidecar of several processes for each."""

import sys

import pytest

from tests.refused_starts import refused_with
from tests.support import free_port
from tests.worker_processes import SERVING, WORKERS, a_channel_each, health, several

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shares out a port's connections")


@pytest.mark.parametrize("host", ["localhost", "[::1]", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]"])
def test_any_host_can_be_shared(host: str) -> None:
    """A name, IPv6, all interfaces: workers share what one process would listen on, and nobody else gets it."""
    address = f"{host}:{free_port()}"
    with several(listen=address, flags=["--insecure-listen"]) as sidecar:
        with a_channel_each(sidecar) as each:
            assert {health(channel) for channel in each.values()} == {SERVING}
        assert sidecar.log.count("other machines") <= 1, "a warning for each worker"
        refused_with(address, ["--listen", address, "--insecure-listen", *WORKERS])
