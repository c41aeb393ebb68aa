"""Parsers for notes given in options or in a file."""

import difflib
from typing import TYPE_CHECKING, Any

from session_notes_tools.cli.options import usage_error

if TYPE_CHECKING:
    from session_notes import Issue, Notes

_KEYS = ("coverage", "issues", "follow_up_suggestions", "summary", "extra")
_ISSUE_KEYS = ("text", "severity", "turn")
_SEVERITIES = ("info", "warning", "critical")


def coverage_share(text: str) -> tuple[str, float]:
    """Parse `TOPIC=SHARE`, split at the last `=` since a topic may contain one."""
    topic, _, share = text.rpartition("=")
    try:
        return topic, float(share)
    except ValueError:
        raise usage_error("--coverage", f"write TOPIC=SHARE, such as goals=0.5, not {text!r}") from None


def issue_fields(text: str) -> dict[str, Any]:
    """Parse `SEVERITY:TEXT`, or a text without a severity."""
    word, colon, rest = text.partition(":")
    severity = word.strip().lower()
    if colon and severity in _SEVERITIES:
        return {"severity": severity, "text": rest.lstrip()}
    if colon and (similar := _similar_severity(severity)):
        raise usage_error(
            "--issue", f"unknown severity {word.strip()!r}: write {similar}:TEXT, or a text without a severity"
        )
    return {"text": text}


def _similar_severity(word: str) -> str | None:
    """Return the severity that a word abbreviates or misspells, if any."""
    abbreviated = [severity for severity in _SEVERITIES if len(word) > 2 and severity.startswith(word)]
    return next(iter([*abbreviated, *difflib.get_close_matches(word, _SEVERITIES, 1, 0.75)]), None)


def notes_from_document(content: dict[str, Any]) -> "Notes":
    """Parse notes in the format of `documents.notes`. Keys may be missing or null."""
    from session_notes import Notes

    if unknown := sorted(content.keys() - set(_KEYS)):
        raise usage_error("--file", f"unknown key {unknown[0]!r}; the keys are {', '.join(_KEYS)}")
    shares = _part(content, "coverage", dict)
    for topic, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float):
            raise usage_error("--file", f"coverage[{topic!r}] must be a number from 0 to 1")
    suggestions = _part(content, "follow_up_suggestions", list)
    if not all(isinstance(suggestion, str) for suggestion in suggestions):
        raise usage_error("--file", "follow_up_suggestions must be a list of strings")
    return Notes(
        coverage=shares,
        issues=[_issue(index, issue) for index, issue in enumerate(_part(content, "issues", list))],
        follow_up_suggestions=suggestions,
        summary=_part(content, "summary", str),
        extra=_part(content, "extra", dict),
    )


def _part(content: dict[str, Any], key: str, kind: type) -> Any:
    part = content.get(key)
    if part is None:
        return kind()
    if not isinstance(part, kind):
        name = {"dict": "an object", "list": "a list", "str": "a string"}[kind.__name__]
        raise usage_error("--file", f"{key} must be {name}")
    return part


def _issue(index: int, content: Any) -> "Issue":
    from session_notes import Issue, Severity

    where = f"issues[{index}]"
    if not isinstance(content, dict) or not isinstance(content.get("text"), str):
        raise usage_error("--file", f"{where} must be an object with a string `text`")
    if unknown := sorted(content.keys() - set(_ISSUE_KEYS)):
        raise usage_error("--file", f"unknown key {unknown[0]!r} in {where}; the keys are {', '.join(_ISSUE_KEYS)}")
    severity, turn = content.get("severity") or "unspecified", content.get("turn")
    if severity not in list(Severity):
        raise usage_error("--file", f"{where}.severity must be info, warning or critical")
    if turn is not None and (isinstance(turn, bool) or not isinstance(turn, int)):
        raise usage_error("--file", f"{where}.turn must be a whole number")
    return Issue(content["text"], Severity(severity), turn)
