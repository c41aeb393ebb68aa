"""How the sidecar logs: one line to stderr for every change of state, one for every call when asked.

As text for people, or as one JSON object a line for programs. Whichever it is, no line holds what users said, an id of
a session or a run, or a secret.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from session_notes_server.settings import LogFormat

# What a line of JSON has where it applies: whoever logs gives it as `extra`.
_FIELDS = ("method", "code", "duration_ms", "error_id")


def configure(*, verbose: bool, form: LogFormat = LogFormat.TEXT, who: str = "") -> None:
    """Set logging up for this process; `who` it is, where there are several."""
    handler = logging.StreamHandler(sys.stderr)
    if form is LogFormat.JSON:
        handler.setFormatter(_JSON(who))
        # Python's own warnings are lines too.
        logging.captureWarnings(True)
    else:
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)-7s {who and who + ': '}%(message)s"))
    handler.addFilter(_worth_telling)
    logging.basicConfig(handlers=[handler], level=logging.DEBUG if verbose else logging.INFO)
    # At debug, gRPC and asyncio tell of themselves alone.
    for name in ("grpc", "asyncio"):
        logging.getLogger(name).setLevel(logging.INFO)


class _JSON(logging.Formatter):
    """One object a line: time, level, logger and message in each, and what else applies.

    Args:
        who: This process, where there are several.
    """

    def __init__(self, who: str) -> None:
        super().__init__()
        self._who = {"process": who} if who else {}

    def format(self, record: logging.LogRecord) -> str:
        """Part of logging.Formatter."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._who,
            **{name: record.__dict__[name] for name in _FIELDS if name in record.__dict__},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _worth_telling(record: logging.LogRecord) -> bool:
    # gRPC logs a traceback whenever a caller left before its answer: in a voice agent, at every interruption.
    raised = record.exc_info[0] if record.exc_info else None
    return raised is None or raised.__name__ != "ExecuteBatchError"
