"""`session-notes health`."""

from typing import Annotated

import typer

from session_notes_server.cli.exits import ExitCode, Failure
from session_notes_server.cli.options import DEFAULT_TARGET, DEFAULT_TIMEOUT, AsJson, Target, Timeout


def health(
    service: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="A service by its full name: session_notes.v1.SessionNotes.",
            show_default="the sidecar as a whole",
        ),
    ] = "",
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = DEFAULT_TIMEOUT,
    as_json: AsJson = False,
) -> None:
    """Say whether the sidecar serves; exits with 0 only then.

    Exits with 4 where the sidecar or its store is not there, with 6 where the service is not known.
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from session_notes import NotServing
