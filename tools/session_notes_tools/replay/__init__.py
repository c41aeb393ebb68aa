"""`session-notes replay`: plays transcripts through real primary and observer processes and checks every promise.

`command` is the command line. `playback` starts `primary` and `observer` as separate processes that share nothing but
the sidecar, and collects their records into a `history`. `audit` reads every session back at the end, and `verdicts`
applies the `promises` to the history.
"""
