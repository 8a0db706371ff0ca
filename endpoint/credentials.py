"""Everything derived from ENDPOINT_SECRET: the tunnel's token, the bearer, the TLS key and its certificate.

HKDF (RFC 5869, SHA-256) with a label each, so that none tells another. The certificate is deterministic (Ed25519
signatures are, RFC 8032; serial and dates are fixed): a restarted Space finds and trusts its own services. It is
public, hence never derive any of this from a password that could be guessed offline.
"""

import datetime
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import NameOID

_LABEL = "stable-diffusion-space v1 "
_NOT_BEFORE = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER = datetime.datetime(2124, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class Credentials:
    """Derived values only; the secret itself is not kept.

    `tunnel_token`, `bearer`, `worker_key`: 64 hexadecimal digits. `tls_key`, `tls_certificate`: PEM texts.
    `certificate_sha256`: of the certificate's DER, 64 hexadecimal digits, what the client pins.
    """

    tunnel_token: str = field(repr=False)
    bearer: str = field(repr=False)
    worker_key: str = field(repr=False)
    tls_key: str = field(repr=False)
    tls_certificate: str = field(repr=False)
    certificate_sha256: str

    @classmethod
    def from_secret(cls, secret: str) -> Self:
        """The same values for the same `secret`, byte for byte, on every machine."""
        key = Ed25519PrivateKey.from_private_bytes(_derive(secret, "tls key"))
        certificate = _certificate(key)
        der = certificate.public_bytes(serialization.Encoding.DER)
        return cls(
            tunnel_token=_derive(secret, "tunnel token").hex(),
            bearer=_derive(secret, "bearer").hex(),
            worker_key=_derive(secret, "worker key").hex(),
            tls_key=key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ).decode(),
            tls_certificate=certificate.public_bytes(serialization.Encoding.PEM).decode(),
            certificate_sha256=hashlib.sha256(der).hexdigest(),
        )


def new_secret() -> str:
    """An ENDPOINT_SECRET for a chain that lives as long as this process: 32 random bytes as text."""
    return secrets.token_urlsafe(32)


def _derive(secret: str, label: str) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=(_LABEL + label).encode()).derive(secret.encode())


def _certificate(key: Ed25519PrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "inference server")])
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=1,
        not_valid_before=_NOT_BEFORE,
        not_valid_after=_NOT_AFTER,
    )
    return builder.sign(key, algorithm=None)
