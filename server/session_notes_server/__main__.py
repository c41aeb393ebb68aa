"""The command `session-notes`."""

from __future__ import annotations

import os
import sys

# Both have to be set before grpc is imported; set one yourself to have it otherwise.
# gRPC's core tells on stderr, in a form of its own, what the sidecar says in its log or answers with a status.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# After a fork we run another program at once, such as the embedded store. What gRPC does for those who go on as they
# are crashes the child if calls are under way: under load one in four.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


def main() -> None:
    """Run the command line, or say how to get it."""
    try:
        from session_notes_server.cli import app
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] in {"session_notes", "session_notes_server"}:
            raise
        sys.exit(f"the command line needs {error.name}: pip install '.[server]' in its checkout")
    app()


if __name__ == "__main__":
    main()
