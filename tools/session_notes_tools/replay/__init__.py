"""`session-notes replay`: plays transcripts through real primary and observer processes and checks every promise.

`command` is the command line. `playback` starts `primary` and `observer` as separate processes that share nothing but
the sidecar, and collects their records into a `history`. At the end `audit` reads every session back, and `verdicts`
checks the `promises` against the history.
"""
