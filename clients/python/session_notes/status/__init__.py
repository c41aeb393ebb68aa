"""Wire-compatible subset of `google.rpc` statuses, generated from `protos/session_notes/status`."""
