"""`session-notes doctor`: checks of a sidecar and its store, with advice on each problem."""
