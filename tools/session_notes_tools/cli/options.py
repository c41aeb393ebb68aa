"""Arguments and options shared by several commands, parsers for their values, and clients for the sidecar."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from session_notes_server.settings import DEFAULT_ADDRESS

from session_notes_tools.cli.credentials import PANEL, credentials_options, tls, token
from session_notes_tools.cli.exits import ExitCode, Failure, failure_of
from session_notes_tools.cli.parameters import argument, option, span_option

if TYPE_CHECKING:
    from session_notes import ObserverClient, PrimaryClient

T = TypeVar("T")

session_argument = argument("session_id", metavar="SESSION", help="The id of the session.")
observer_option = option(
    "--observer", metavar="NAME", help="The name of the observer.", default="", show_default="default"
)

target_option = option(
    "--target",
    metavar="ADDRESS",
    envvar="SESSION_NOTES_TARGET",
    panel=PANEL,
    help="The address of the sidecar: host:port or unix:/path.",
    # Also the clients' default, which takes longer to import.
    default=DEFAULT_ADDRESS,
)
_timeout_option = span_option(
    "--timeout", panel=PANEL, help="The longest time to wait for a response: 500ms, 5s, 1m.", default="5s"
)
_json_option = option("--json", "as_json", is_flag=True, panel=PANEL, help="Print one JSON document, for scripts.")


def common_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add `--target`, `--timeout`, `--json` and the credentials options to a command."""
    return target_option(_timeout_option(_json_option(credentials_options(command))))


@contextmanager
def primary_client(target: str, timeout: timedelta) -> Iterator["PrimaryClient"]:
    """Open a client whose errors end the command with the matching exit code. The timeout applies to all calls."""
    # This import takes half of a command's time, and neither --help nor usage errors need it.
    from session_notes import PrimaryClient, SessionNotesError

    try:
        with PrimaryClient(target, token=token(), tls=tls(target), timeout=timeout, state_timeout=timeout) as client:
            yield client
    except SessionNotesError as error:
        raise failure_of(error, target) from error


@contextmanager
def observer_client(target: str, timeout: timedelta, observer: str) -> Iterator["ObserverClient"]:
    """Open a client of an observer whose errors end the command with the matching exit code."""
    from session_notes import ObserverClient, SessionNotesError

    try:
        with ObserverClient(target, token=token(), tls=tls(target), observer=observer, timeout=timeout) as client:
            yield client
    except SessionNotesError as error:
        raise failure_of(error, target) from error


def session_exists(client: "PrimaryClient", session_id: str) -> bool:
    """Return whether the store has any data of a session, or True if the session cannot be read."""
    from session_notes import SessionNotesError

    try:
        return client.get_session(session_id).create_time is not None
    except SessionNotesError:
        return True


def usage_error(parameter: str, message: str) -> Failure:
    """Return a usage error that names the option or argument at fault."""
    return Failure(f"{parameter}: {message}", ExitCode.USAGE)


def name_and_value(parameter: str, text: str) -> tuple[str, str]:
    """Split `name=value` at the first `=`."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise usage_error(parameter, f"write NAME=VALUE, not {text!r}")
    return name, value


def json_value(text: str) -> Any:
    """Parse strict JSON. Unlike Python's parser, reject NaN and Infinity.

    Raises:
        ValueError: If the text is not JSON.
    """

    def reject(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, parse_constant=reject)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def json_object(parameter: str, text: str, *, where: str = "") -> dict[str, Any]:
    """Parse a JSON object. In errors, `where` names its place in the input."""
    place = f"{where}: " if where else ""
    try:
        content = json_value(text)
    except ValueError as error:
        raise usage_error(parameter, f"{place}not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise usage_error(parameter, f"{place}must be a JSON object: {{…}}")
    return content


def read_text(path: Path) -> str:
    """Read a `--file`; `-` is stdin."""
    try:
        return (sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise usage_error("--file", f"{path} is not UTF-8") from None
    except OSError as error:
        raise usage_error("--file", f"{path}: {error.strerror}") from None
