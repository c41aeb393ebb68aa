"""`session-notes serve`."""

import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from session_notes_server.settings import InvalidSetting, StartupError
from session_notes_server.sidecar.grpc_poller import choose_poller

from session_notes_tools.cli.environment import variable_warnings
from session_notes_tools.cli.exits import ExitCode, Failure
from session_notes_tools.cli.help import Command
from session_notes_tools.cli.serve_options import serve_options, settings_from

log = logging.getLogger(__name__)


@click.command(
    cls=Command, epilog="Examples:\n  session-notes serve\n  session-notes serve --redis-url redis://localhost:6379/0"
)
@serve_options
def serve(dev: bool, verbose: bool, **values: Any) -> None:
    """Start the sidecar.

    By default it listens on this machine only and uses an embedded Valkey, whose data survives restarts. SIGTERM,
    SIGHUP or Ctrl-C stops it after the calls in flight have finished; a second signal stops it immediately.

    To export traces to an OpenTelemetry collector, set OTEL_EXPORTER_OTLP_ENDPOINT.
    """
    # Until there is something to shut down, Ctrl-C again ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    choose_poller()
    # Imported here because gRPC must not be imported before the poller is chosen, and other commands need none of this.
    from tempfile import TemporaryDirectory

    from session_notes_server.sidecar import log_setup
    from session_notes_server.sidecar.lifecycle import log_addresses, run
    from session_notes_server.sidecar.sidecar import serve as serve_alone
    from session_notes_server.sidecar.supervisor import supervise

    settings = settings_from(values)
    log_setup.configure(verbose=verbose or dev, log_format=settings.log_format)
    for warning in variable_warnings(click.get_current_context().find_root().command):
        log.warning(warning)

    def on_ready(addresses: Sequence[str]) -> None:
        log_addresses(addresses)
        if dev:
            from session_notes_server.sidecar.sample_calls import sample_lines

            log_setup.print_lines([*sample_lines(settings, addresses)])

    keeps_data = not dev or settings.data_dir is not None or settings.redis_url is not None
    try:
        # From here on there may be a temporary directory to remove.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with nullcontext() if keeps_data else TemporaryDirectory(prefix="session-notes-dev-") as folder:
            if folder is not None:
                settings = replace(settings, data_dir=Path(folder))
            run((serve_alone if settings.workers == 1 else supervise)(settings, on_ready))
    except KeyboardInterrupt:
        sys.exit(130)
    except StartupError as error:
        log_setup.flush()
        code = ExitCode.USAGE if isinstance(error, InvalidSetting) else ExitCode.UNEXPECTED
        raise Failure(str(error) + _make_hint(str(error)), code) from error


def _make_hint(message: str) -> str:
    """Return a hint on passing the flag that an error names through `make run`, if make started this process."""
    flag = re.search(r"--[a-z-]+", message)
    if flag is None or os.environ.get("STARTED_BY") != "make run":
        return ""
    return f'\nWith make: make run ARGS="{flag[0]} ..."'
