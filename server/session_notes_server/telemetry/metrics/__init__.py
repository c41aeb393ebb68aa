"""What the sidecar counts of itself, for Prometheus. Nothing of users is in it: no id, no name that a caller chose.

`families` says what there is, `cells` where the numbers are, `counting` how a process counts, `exposition` how that is
told.
"""
