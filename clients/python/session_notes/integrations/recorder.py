"""Recorders, for programs that import them from here: they are part of `session_notes` itself."""

from session_notes import AsyncTurnRecorder, TurnRecorder

__all__ = ["AsyncTurnRecorder", "TurnRecorder"]
