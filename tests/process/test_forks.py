"""Programs that we start while calls are under way."""

import os
import subprocess
import sys

BESIDE_CALLS = """
import asyncio
import session_notes_tools.__main__
import grpc.aio
from session_notes_server.child_process import die_with_parent

async def main():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    call = grpc.aio.insecure_channel(f"127.0.0.1:{port}").unary_unary("/nothing/There")

    async def load():
        while True:
            try:
                await call(b"")
            except grpc.aio.AioRpcError:
                pass

    callers = [asyncio.create_task(load()) for _ in range(4)]
    for _ in range(60):
        started = await asyncio.create_subprocess_exec(
            "true", stderr=asyncio.subprocess.PIPE, start_new_session=True, preexec_fn=die_with_parent
        )
        _, said = await started.communicate()
        print(started.returncode, said.decode())
    for caller in callers:
        caller.cancel()

asyncio.run(main())
"""


def test_programs_start_while_calls_are_under_way() -> None:
    """The embedded store that is started again under load starts: gRPC's handlers at a fork do not crash it."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GRPC_")}
    done = subprocess.run(
        [sys.executable, "-c", BESIDE_CALLS], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.stdout.split("\n") == ["0 "] * 60 + [""], done.stderr
