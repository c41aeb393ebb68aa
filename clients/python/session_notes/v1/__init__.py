"""The contract, generated from `protos/session_notes/v1` by `make protos`: messages and service stubs."""
