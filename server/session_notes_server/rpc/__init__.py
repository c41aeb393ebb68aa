"""The RPC layer: handlers, admission, authorization, validation, conversion, and the status of every rejected call."""
