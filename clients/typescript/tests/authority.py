"""Create two authorities in the given folder, and certificates from the first for a sidecar and a primary."""

import sys
from pathlib import Path

import trustme

home = Path(sys.argv[1])
authority = trustme.CA()
authority.cert_pem.write_to_path(home / "ca.pem")
trustme.CA().cert_pem.write_to_path(home / "other-ca.pem")
for name, identities in {"sidecar": ("localhost", "127.0.0.1"), "primary": ("primary.example.org",)}.items():
    certificate = authority.issue_cert(*identities)
    (home / f"{name}.pem").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
    key = home / f"{name}.key"
    key.touch(0o600)
    key.write_bytes(certificate.private_key_pem.bytes())
