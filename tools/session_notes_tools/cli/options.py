"""What the commands have in common: arguments and options, how their text is read, and the clients they call with."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from session_notes_tools.cli.credentials import PANEL, connecting, tls, token
from session_notes_tools.cli.exits import ExitCode, Failure, failure_of
from session_notes_tools.cli.parameters import argument, option, span_option

if TYPE_CHECKING:
    from session_notes import ObserverClient, PrimaryClient

T = TypeVar("T")

session_argument = argument("session_id", metavar="SESSION", help="The session's id.")
observer_option = option("--observer", metavar="NAME", help="Which observer.", default="", show_default="default")

target_option = option(
    "--target",
    metavar="ADDRESS",
    envvar="SESSION_NOTES_TARGET",
    panel=PANEL,
    help="Where the sidecar is: host:port or unix:/path.",
    default="127.0.0.1:50051",
)
_timeout_option = span_option(
    "--timeout", panel=PANEL, help="How long to wait for an answer: 500ms, 5s, 1m.", default="5s"
)
_json_option = option("--json", "as_json", is_flag=True, panel=PANEL, help="Print one JSON document, for scripts.")


def common_options(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command what most take: `--target`, `--timeout`, `--json`, and how to connect."""
    return target_option(_timeout_option(_json_option(connecting(command))))


@contextmanager
def primary(target: str, timeout: timedelta) -> Iterator["PrimaryClient"]:
    """A client that waits as long as it was told, and whose errors end the command as they should."""
    # Half of a command's time goes into this import; --help and wrong usage do without.
    from session_notes import PrimaryClient, SessionNotesError

    try:
        with PrimaryClient(target, token=token(), tls=tls(target), timeout=timeout, state_timeout=timeout) as client:
            yield client
    except SessionNotesError as error:
        raise failure_of(error, target) from error


@contextmanager
def observing(target: str, timeout: timedelta, observer: str) -> Iterator["ObserverClient"]:
    """The same for an observer."""
    from session_notes import ObserverClient, SessionNotesError

    try:
        with ObserverClient(target, token=token(), tls=tls(target), observer=observer, timeout=timeout) as client:
            yield client
    except SessionNotesError as error:
        raise failure_of(error, target) from error


def is_known(client: "PrimaryClient", session_id: str) -> bool:
    """Return whether the store has anything of a session; where nobody can say, it is taken for known."""
    from session_notes import SessionNotesError

    try:
        return client.get_session(session_id).create_time is not None
    except SessionNotesError:
        return True


def usage_error(what: str, message: str) -> Failure:
    """The usage error that names the option or argument at fault."""
    return Failure(f"{what}: {message}", ExitCode.USAGE)


def named(option: str, text: str) -> tuple[str, str]:
    """Parts `name=value` at the first `=`."""
    name, equals, content = text.partition("=")
    if not equals or not name:
        raise usage_error(option, f"write NAME=VALUE, not {text!r}")
    return name, content


def json_value(text: str) -> Any:
    """Reads JSON, and only JSON: Python alone would take NaN and Infinity too.

    Raises:
        ValueError: it is none.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deep") from None


def json_object(option: str, text: str, *, where: str = "") -> dict[str, Any]:
    """Reads a JSON object; `where` it stands, if not alone."""
    place = f"{where}: " if where else ""
    try:
        content = json_value(text)
    except ValueError as error:
        raise usage_error(option, f"{place}not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise usage_error(option, f"{place}must be a JSON object: {{…}}")
    return content


def text_of(path: Path) -> str:
    """What is in a file, or for `-` on stdin."""
    try:
        return (sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise usage_error("--file", f"{path} is not UTF-8") from None
    except OSError as error:
        raise usage_error("--file", f"{path}: {error.strerror}") from None
