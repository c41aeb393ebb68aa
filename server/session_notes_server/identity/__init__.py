"""Identity of callers: tokens, client certificates and roles, read from files that can be trusted."""
