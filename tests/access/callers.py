"""Credentials for tests: token files, short-lived certificates, and calls with and without them."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support import Refusal, new_session_id

TOKENS = {role: f"canary-{role}-5b1e9d02c7" for role in ("primary", "observer", "admin")}

# Channels do not share connections, so each makes its own handshake.
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]


def write_secret(path: Path, *lines: str) -> Path:
    """Write lines to a file that only its owner can read, replacing the file atomically."""
    new = path.with_name(f".{path.name}.new")
    new.touch(0o600)
    new.write_text("".join(f"{line}\n" for line in lines))
    return new.replace(path)


def token_files(directory: Path, tokens: Mapping[str, str] = TOKENS) -> Path:
    """Create a directory for `--tokens-dir` and write its token files."""
    directory.mkdir(mode=0o700, exist_ok=True)
    for role, token in tokens.items():
        write_secret(directory / role, token)
    return directory


@dataclass(frozen=True)
class Certificate:
    """The files of a certificate and its key."""

    cert: Path
    key: Path

    @property
    def pems(self) -> tuple[bytes, bytes]:
        """The content of key and certificate."""
        return self.key.read_bytes(), self.cert.read_bytes()


class Authority:
    """An authority that signs certificates of sidecars and clients."""

    def __init__(self, home: Path) -> None:
        self._home = home
        home.mkdir(exist_ok=True)
        self._ca = trustme.CA()
        self.path = home / "ca.pem"
        self._ca.cert_pem.write_to_path(self.path)

    def issue(self, name: str, *identities: str, common_name: str | None = None) -> Certificate:
        """Issue a certificate for DNS names and IP addresses, replacing the files of the same name."""
        issued = self._ca.issue_cert(*identities, common_name=common_name)
        chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
        return self.write(name, issued.private_key_pem.bytes(), chain)

    def issue_for_uri(self, name: str, uri: str) -> Certificate:
        """Issue a certificate for a URI, such as a SPIFFE id, which trustme does not support."""
        key = ec.generate_private_key(ec.SECP256R1())
        signer = x509.load_pem_x509_certificate(self._ca.cert_pem.bytes())
        signing_key = serialization.load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        assert isinstance(signing_key, ec.EllipticCurvePrivateKey)
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "tests")]))
            .issuer_name(signer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
            .sign(signing_key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        plain = serialization.NoEncryption()
        key_pem = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
        return self.write(name, key_pem, certificate.public_bytes(pem))

    def write(self, name: str, key: bytes, chain: bytes) -> Certificate:
        """Write the files of a certificate."""
        files = Certificate(self._home / f"{name}.pem", self._home / f"{name}.key")
        files.cert.write_bytes(chain)
        files.key.touch(0o600)
        files.key.write_bytes(key)
        return files


def encrypted_channel(target: str, authority: Authority, client: Certificate | None = None) -> grpc.Channel:
    """Return a channel with TLS, and with the client's certificate if given."""
    key, cert = client.pems if client else (None, None)
    return grpc.secure_channel(
        target, grpc.ssl_channel_credentials(authority.path.read_bytes(), key, cert), options=_OPTIONS
    )


def bearer(token: str | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a call with a token."""
    return () if token is None else (("authorization", f"Bearer {token}"),)


class _WithToken(grpc.UnaryUnaryClientInterceptor):
    def __init__(self, token: str) -> None:
        self._token = token

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details._replace(metadata=bearer(self._token)), request)


def with_token(channel: grpc.Channel, token: str) -> grpc.Channel:
    """Return a channel that sends a token with every unary call."""
    return grpc.intercept_channel(channel, _WithToken(token))


def outcome(
    channel: grpc.Channel, method: str, request: bytes = b"", *, metadata: tuple[tuple[str, str], ...] = ()
) -> Refusal:
    """Make a unary call by its full path, and return its status. On success, the code is OK."""
    refusal = Refusal()
    call: Any = channel.unary_unary(method)
    try:
        call(request, metadata=metadata, timeout=10)
    except grpc.RpcError as error:
        refusal.read(error)
    return refusal


def get_notes_code(channel: grpc.Channel, token: str | None = None) -> grpc.StatusCode:
    """Return the status of a GetNotes."""
    session_id = new_session_id().encode()
    request = b"\x0a" + bytes([len(session_id)]) + session_id
    return outcome(channel, "/session_notes.v1.SessionNotes/GetNotes", request, metadata=bearer(token)).code


def is_serving(channel: grpc.Channel) -> bool:
    """Return whether a health check reports SERVING."""
    try:
        response = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    except grpc.RpcError:
        return False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
