"""`session-notes replay`: transcripts played through real primary and observer processes, and every promise checked.

`command` is what a person types, `play` puts it on: `primary` and `observer` are programs of their own that share
nothing but the sidecar and report what they did as a `history`; `readback` asks the sidecar once more at the end, and
`promises` judges all of it.
"""
