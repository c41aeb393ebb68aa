"""The embedded store: a Valkey server in a data directory, and the upkeep of its files."""
