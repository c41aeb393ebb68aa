"""`session-notes doctor`: what is in order here, what is not, and what to do about it."""
