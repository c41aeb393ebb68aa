"""The entry point of the `session-notes` command."""

# Until there is something to shut down, Ctrl-C ends the process without a traceback. This comes before all other
# imports, even `signal`, because they take time.
import _signal  # type: ignore[import-not-found]

if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import os
import sys

# If stdin, stdout or stderr is closed, the next file opened would get its descriptor, and messages meant for the
# terminal would be written to that file.
for number, stream in enumerate(("stdin", "stdout", "stderr")):
    if getattr(sys, stream) is None:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # Opened as `number`, the lowest free descriptor.
        setattr(sys, stream, open(number, "r" if number == 0 else "w"))  # noqa: PTH123, SIM115 - stays open to the end
# Both must be set before grpc is imported. Existing values take precedence.
# gRPC's core logs to stderr in its own format, repeating the sidecar's log and the statuses of calls.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Child processes execute another program, such as the embedded store, right after the fork, so they do not need gRPC's
# fork support, which crashed one child in four when calls were in flight under load.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


def main() -> None:
    """Run the command line, or explain how to install what it needs."""
    try:
        from session_notes_tools.command_line import app
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] in {"session_notes", "session_notes_server"}:
            raise
        sys.exit(f"the command line needs {error.name}: pip install '.[server]' in its checkout")
    if _signal.getsignal(_signal.SIGINT) is _signal.SIG_DFL:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
            _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


if __name__ == "__main__":
    main()
