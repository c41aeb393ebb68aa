"""How a command gets to Redis: connections, topology, credentials."""
