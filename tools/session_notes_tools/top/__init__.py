"""`session-notes top`: a live table of all sessions, built on public RPCs only."""
