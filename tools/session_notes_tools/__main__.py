"""The command `session-notes`."""

# First of all, and without `signal`, whose own import takes time: Ctrl-C ends the process without a traceback until
# something handles it.
import _signal  # type: ignore[import-not-found]

if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import os
import sys

# A descriptor of a closed stdin, stdout or stderr would be given to the next file that is opened, and what is written
# for people would go there.
for number, stream in enumerate(("stdin", "stdout", "stderr")):
    if getattr(sys, stream) is None:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # Gets the lowest number that is free: this one.
        setattr(sys, stream, open(number, "r" if number == 0 else "w"))  # noqa: PTH123, SIM115 - for as long as we run
# Both have to be set before grpc is imported; set one yourself to have it otherwise.
# gRPC's core tells on stderr, in a form of its own, what the sidecar says in its log or answers with a status.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# After a fork we run another program at once, such as the embedded store. What gRPC does for those who go on as they
# are crashes the child if calls are under way: under load one in four.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


def main() -> None:
    """Run the command line, or say how to get it."""
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
