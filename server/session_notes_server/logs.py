"""How the sidecar logs: one line to stderr for every change of state, more when asked."""

from __future__ import annotations

import logging
import sys


def configure(*, verbose: bool, who: str = "") -> None:
    """Set logging up for this process; `who` it is, where there are several."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)-7s {who and who + ': '}%(message)s"))
    handler.addFilter(_worth_telling)
    logging.basicConfig(handlers=[handler], level=logging.DEBUG if verbose else logging.INFO)
    # At debug, gRPC and asyncio tell of themselves alone.
    for name in ("grpc", "asyncio"):
        logging.getLogger(name).setLevel(logging.INFO)


def _worth_telling(record: logging.LogRecord) -> bool:
    # gRPC logs a traceback whenever a caller left before its answer: in a voice agent, at every interruption.
    raised = record.exc_info[0] if record.exc_info else None
    return raised is None or raised.__name__ != "ExecuteBatchError"
