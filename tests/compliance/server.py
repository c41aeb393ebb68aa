"""A program that serves one service on one engine, for a suite to call: `interop` or `connect`, and the engine's name.

For the interop client, it prints its port. Connect's runner writes a ServerCompatRequest to its standard input, and
reads a ServerCompatResponse from its standard output.
"""

import asyncio
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from session_notes_server.sidecar.grpc_poller import choose_poller

choose_poller()  # Before gRPC is imported.

from session_notes_server.identity.callers import Certificates  # noqa: E402
from session_notes_server.rpc.engines import Engine, open_engine  # noqa: E402
from session_notes_server.settings import EngineName, Limits, Settings  # noqa: E402
from session_notes_server.sidecar.lifecycle import run  # noqa: E402

from tests.compliance.connect import connect_service  # noqa: E402
from tests.compliance.interop import interop_service  # noqa: E402
from tests.compliance.services import Contract  # noqa: E402
from tests.compliance.tools import CONNECT_DESCRIPTORS, INTEROP_DESCRIPTORS  # noqa: E402


async def serve(engine: Engine, on_ready: Callable[[int], None]) -> None:
    """Serve on a free port until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    with engine.listening("127.0.0.1:0") as address:
        await engine.start()
        on_ready(int(address.rpartition(":")[2]))
        await stopped.wait()
        await engine.stop(1)


async def serve_interop(settings: Settings) -> None:
    """Serve grpc.testing.TestService."""
    engine = open_engine(settings, None)
    interop_service.add_to(engine, Contract(INTEROP_DESCRIPTORS))
    await serve(engine, lambda port: print(port, flush=True))


async def serve_connect(settings: Settings) -> None:
    """Serve connectrpc.conformance.v1.ConformanceService with the properties that the runner requests."""
    contract = Contract(CONNECT_DESCRIPTORS)
    (size,) = struct.unpack(">I", sys.stdin.buffer.read(4))
    request = contract.message(f"{connect_service.PACKAGE}.ServerCompatRequest").FromString(sys.stdin.buffer.read(size))
    response = contract.message(f"{connect_service.PACKAGE}.ServerCompatResponse")(
        host="127.0.0.1", pem_cert=request.server_creds.cert
    )

    def on_ready(port: int) -> None:
        response.port = port
        content = response.SerializeToString()
        sys.stdout.buffer.write(struct.pack(">I", len(content)) + content)
        sys.stdout.buffer.flush()

    limit = request.message_receive_limit
    if settings.engine is EngineName.GRPCIO:
        limit //= 2  # gRPC receives twice the maximum, for the sidecar to reject with a reason.
    settings = replace(settings, limits=Limits(message_bytes=limit))
    with certificates(request) as served:
        engine = open_engine(settings, served)
        connect_service.add_to(engine, contract)
        await serve(engine, on_ready)


@contextmanager
def certificates(request: Any) -> Iterator[Certificates | None]:
    """Yield the certificates of a ServerCompatRequest, or None if the runner requests no TLS."""
    if not request.use_tls:
        yield None
        return
    with TemporaryDirectory() as folder:
        cert, key, client_ca = (Path(folder, name) for name in ("cert.pem", "key.pem", "ca.pem"))
        key.touch(0o600)
        cert.write_bytes(request.server_creds.cert)
        key.write_bytes(request.server_creds.key)
        client_ca.write_bytes(request.client_tls_cert)
        yield Certificates(cert, key, client_ca if request.client_tls_cert else None)


if __name__ == "__main__":
    main = {"interop": serve_interop, "connect": serve_connect}[sys.argv[1]]
    run(main(Settings(engine=EngineName(sys.argv[2]))))
