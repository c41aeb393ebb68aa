"""Callers with and without credentials: token files, certificates made for the day, and channels that carry them."""

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

# A connection of its own for each channel, so that each has its own handshake.
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]


def write_secret(path: Path, *lines: str) -> Path:
    """A file that is its owner's alone, in the place of the one before."""
    new = path.with_name(f".{path.name}.new")
    new.touch(0o600)
    new.write_text("".join(f"{line}\n" for line in lines))
    return new.replace(path)


def token_files(directory: Path, tokens: Mapping[str, str] = TOKENS) -> Path:
    """A directory of tokens, as the sidecar takes it."""
    directory.mkdir(mode=0o700, exist_ok=True)
    for role, token in tokens.items():
        write_secret(directory / role, token)
    return directory


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, in files and at hand."""

    cert: Path
    key: Path

    @property
    def pems(self) -> tuple[bytes, bytes]:
        """Key and certificate."""
        return self.key.read_bytes(), self.cert.read_bytes()


class Authority:
    """Signs certificates, of sidecars and of clients."""

    def __init__(self, home: Path) -> None:
        self._home = home
        home.mkdir(exist_ok=True)
        self._ca = trustme.CA()
        self.path = home / "ca.pem"
        self._ca.cert_pem.write_to_path(self.path)

    def issue(self, name: str, *identities: str, common_name: str | None = None) -> Certificate:
        """A certificate for DNS names and IP addresses; written in the place of the one of the same name."""
        made = self._ca.issue_cert(*identities, common_name=common_name)
        chain = b"".join(pem.bytes() for pem in made.cert_chain_pems)
        return self._written(name, made.private_key_pem.bytes(), chain)

    def issue_for_uri(self, name: str, uri: str) -> Certificate:
        """A certificate for a URI, such as a SPIFFE id, which trustme makes none for."""
        key = ec.generate_private_key(ec.SECP256R1())
        signer = x509.load_pem_x509_certificate(self._ca.cert_pem.bytes())
        signing_key = serialization.load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        assert isinstance(signing_key, ec.EllipticCurvePrivateKey)
        now = datetime.datetime.now(datetime.UTC)
        made = (
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
        return self._written(name, key_pem, made.public_bytes(pem))

    def _written(self, name: str, key: bytes, chain: bytes) -> Certificate:
        made = Certificate(self._home / f"{name}.pem", self._home / f"{name}.key")
        made.cert.write_bytes(chain)
        made.key.touch(0o600)
        made.key.write_bytes(key)
        return made


def encrypted_channel(target: str, authority: Authority, client: Certificate | None = None) -> grpc.Channel:
    """A connection with TLS, and with a certificate of the caller's where one is given."""
    key, cert = client.pems if client else (None, None)
    return grpc.secure_channel(
        target, grpc.ssl_channel_credentials(authority.path.read_bytes(), key, cert), options=_OPTIONS
    )


def bearer(token: str | None) -> tuple[tuple[str, str], ...]:
    """The metadata of a call with a token."""
    return () if token is None else (("authorization", f"Bearer {token}"),)


def outcome(
    channel: grpc.Channel, method: str, request: bytes = b"", *, metadata: tuple[tuple[str, str], ...] = ()
) -> Refusal:
    """How any unary call ended, by its full path; of a success the code is OK."""
    refusal = Refusal()
    call: Any = channel.unary_unary(method)
    try:
        call(request, metadata=metadata, timeout=10)
    except grpc.RpcError as error:
        refusal.read(error)
    return refusal


def get_notes_code(channel: grpc.Channel, token: str | None = None) -> grpc.StatusCode:
    """How a GetNotes ends."""
    session_id = new_session_id().encode()
    request = b"\x0a" + bytes([len(session_id)]) + session_id
    return outcome(channel, "/session_notes.v1.SessionNotes/GetNotes", request, metadata=bearer(token)).code


def is_serving(channel: grpc.Channel) -> bool:
    """What health says."""
    try:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
