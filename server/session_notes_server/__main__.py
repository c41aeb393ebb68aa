"""The command `session-notes`."""

from __future__ import annotations

import os
import signal
import sys

# Ctrl-C ends it without a traceback until something handles the signal: at once, and so without a word.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
# A descriptor of a closed stdin, stdout or stderr would be given to the next file that is opened, and what is written
# for people would go there.
for number in range(3):
    try:
        os.fstat(number)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # Gets the lowest number that is free: this one.
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
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
