"""`session-notes health`."""

from datetime import timedelta

import click
from click.exceptions import Exit
from session_notes_server.settings import HEALTH_LIVE, HEALTH_READY

from session_notes_tools.cli.credentials import tls
from session_notes_tools.cli.exits import ExitCode, Failure, failure_of
from session_notes_tools.cli.help import Command
from session_notes_tools.cli.options import common_options
from session_notes_tools.cli.parameters import option


def _complete_services(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the matching service names. They are literals, so that completion does not import gRPC."""
    names = (HEALTH_LIVE, HEALTH_READY, "session_notes.v1.SessionNotes", "session_notes.v1.SessionState")
    return [name for name in names if name.startswith(incomplete)]


@click.command(cls=Command, epilog="Example: session-notes health --service session_notes.v1.SessionNotes")
@option(
    "--service",
    metavar="NAME",
    shell_complete=_complete_services,
    help="The service to check: `live` for the process alone, `ready` for the process and its store, or a full name "
    "such as session_notes.v1.SessionNotes.",
    default="",
    show_default="the same as ready",
)
@common_options
def health(
    service: str,
    target: str,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Check whether the sidecar serves calls. The exit code is 0 only if it does.

    The exit code is 4 if the sidecar or its store is unavailable, and 6 if the service is unknown.
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from session_notes import Endpoint, SessionNotesError

    from session_notes_tools.cli import documents, output

    try:
        channel = Endpoint(target, tls=tls(target), anonymous=True).open_channel()
    except SessionNotesError as error:
        raise failure_of(error, target) from error
    with channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout.total_seconds())
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise Failure(f"unknown service {service} at {target}", ExitCode.NOT_FOUND) from error
            raise failure_of(SessionNotesError.from_rpc_error(error), target) from error
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    serving = response.status == health_pb2.HealthCheckResponse.SERVING
    if as_json:
        documents.write({"target": target, "service": service, "status": status.lower()})
    else:
        output.echo(output.line((status, "green" if serving else "red"), f"  {service or 'the sidecar'} at {target}"))
    if not serving:
        raise Exit(ExitCode.UNAVAILABLE)
