"""Child processes started while calls are in flight."""

import os
import subprocess
import sys

FORKS_UNDER_LOAD = """
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
        _, output = await started.communicate()
        print(started.returncode, output.decode())
    for caller in callers:
        caller.cancel()

asyncio.run(main())
"""


def test_child_processes_start_while_calls_are_in_flight() -> None:
    """A child process, such as the embedded store, can be started under load: gRPC's fork handlers do not crash it."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GRPC_")}
    done = subprocess.run(
        [sys.executable, "-c", FORKS_UNDER_LOAD], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.stdout.split("\n") == ["0 "] * 60 + [""], done.stderr
