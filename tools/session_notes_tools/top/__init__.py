"""`session-notes top`: a live table of all sessions, made of public RPCs alone."""
