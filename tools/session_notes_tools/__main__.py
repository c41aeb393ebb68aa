"""The command `session-notes`."""

# Before any other import, and without `signal`, whose import takes time: until there is something to shut down, Ctrl-C
# ends the process without a traceback.
import _signal  # type: ignore[import-not-found]

if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import os
import sys

# The descriptor of a closed stdin, stdout or stderr would go to the next file that is opened, and messages for people
# would be written into that file.
for number, stream in enumerate(("stdin", "stdout", "stderr")):
    if getattr(sys, stream) is None:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # Gets the lowest free number, which is this one.
        setattr(sys, stream, open(number, "r" if number == 0 else "w"))  # noqa: PTH123, SIM115 - stays open to the end
# Both must be set before grpc is imported. A value from outside wins.
# gRPC's core writes to stderr, in its own format, what the sidecar's log and statuses say already.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# A forked child of this process starts another program at once, such as the embedded store. gRPC's fork support is for
# children that go on. With calls in flight it crashes the child: one in four under load.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


def main() -> None:
    """Run the command line, or print how to install it."""
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
