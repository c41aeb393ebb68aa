"""Prometheus metrics. They contain no user data: no id, and no name that a caller chose.

`families` defines the metrics, `cells` holds the numbers, `counting` and `notes` count, `exposition` serves scrapes.
"""
