"""The embedded store: a Valkey server in the data directory."""
