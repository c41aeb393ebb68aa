"""Stores that speak TLS only."""

import tempfile
from functools import lru_cache
from subprocess import run

import pytest

from tests.access.callers import Authority, Certificate
from tests.stores import StoreServer, free_port, redis_program


@lru_cache
def tls_program() -> str:
    """Return the redis-server on PATH, or skip the test if it does not support TLS."""
    program = redis_program()
    if program is None:
        pytest.skip("no redis-server on PATH")
    with tempfile.TemporaryDirectory() as home:
        result = run(
            [program, "--port", "0", "--tls-port", str(free_port()), "--dir", home], capture_output=True, text=True
        )
    if "No tls-cert-file configured" not in result.stdout:
        pytest.skip("the redis-server on PATH has no TLS")
    return program


def tls_flags(pair: Certificate, authority: Authority, *, clients: str = "no") -> tuple[str, ...]:
    """Return the flags of a redis-server for TLS with a certificate, with client certificates if `clients` is `yes`."""
    files = ("--tls-cert-file", str(pair.cert), "--tls-key-file", str(pair.key), "--tls-ca-cert-file")
    return (*files, str(authority.path), "--tls-auth-clients", clients)


def tls_store(pair: Certificate, authority: Authority, *more: str, clients: str = "no") -> StoreServer:
    """Return a redis-server that speaks TLS only."""
    port = free_port()
    flags = ("--port", "0", "--tls-port", str(port), *tls_flags(pair, authority, clients=clients), *more)
    return StoreServer(tls_program(), flags, port)
