"""Who is calling: tokens, certificates and roles."""
