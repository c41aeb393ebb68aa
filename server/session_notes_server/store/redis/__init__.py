"""Transport to Redis: URLs, connections, topology, credentials, and the execution of scripts."""
