"""`session-notes health`."""

from datetime import timedelta

import click
from click.exceptions import Exit

from session_notes_tools.cli.credentials import tls
from session_notes_tools.cli.exits import ExitCode, Failure, failure_of, no_answer, one_line
from session_notes_tools.cli.help import Command
from session_notes_tools.cli.options import common_options
from session_notes_tools.cli.parameters import option


def _services(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """What there is to complete; the full names stand here, as gRPC is not imported for that."""
    names = ("live", "ready", "session_notes.v1.SessionNotes", "session_notes.v1.SessionState")
    return [name for name in names if name.startswith(incomplete)]


@click.command(cls=Command, epilog="Example: session-notes health --service session_notes.v1.SessionNotes")
@option(
    "--service",
    metavar="NAME",
    shell_complete=_services,
    help="`live`: the process alone, whatever its store does; `ready`: all that calls need; or a service by "
    "its full name, session_notes.v1.SessionNotes.",
    default="",
    show_default="as ready",
)
@common_options
def health(
    service: str,
    target: str,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Say whether the sidecar serves; only then the exit code is 0.

    It is 4 where the sidecar or its store is not there, 6 where the service is not known.
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from session_notes import Endpoint, SessionNotesError

    from session_notes_tools.cli import documents, output

    # As the clients do it.
    try:
        channel = Endpoint(target, tls=tls(target), anonymous=True).open_channel()
    except SessionNotesError as error:
        raise failure_of(error, target) from error
    with channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout.total_seconds())
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            if code is grpc.StatusCode.NOT_FOUND:
                raise Failure(f"there is no service {service} at {target}", ExitCode.NOT_FOUND) from error
            if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                raise no_answer(target, details) from error
            denied = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
            raise Failure(
                f"{code.name}: {one_line(details)}", ExitCode.DENIED if code in denied else ExitCode.UNEXPECTED
            ) from error
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    serving = response.status == health_pb2.HealthCheckResponse.SERVING
    if as_json:
        documents.write({"target": target, "service": service, "status": status.lower()})
    else:
        output.echo(output.line((status, "green" if serving else "red"), f"  {service or 'the sidecar'} at {target}"))
    if not serving:
        raise Exit(ExitCode.UNAVAILABLE)
