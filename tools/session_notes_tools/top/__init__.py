"""`session-notes top`: a live table of sessions, made of public RPCs alone."""
