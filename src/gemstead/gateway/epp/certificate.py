"""The certificate that gateways see. Made up at start where none is given, as the reference picker does it: gateways
reach pickers without checking whom they have, so what TLS gives them here is that nobody else reads along.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

VALID = timedelta(days=3650)


def self_signed(name: str = "gemstead-epp") -> tuple[bytes, bytes]:
    """A new private key and its certificate, PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name), x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, certificate.public_bytes(pem)


def from_files(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    """Key and chain as they are on disk now: a mounted secret that is renewed counts from the next handshake on.

    Raises:
        OSError: one of them cannot be read.
    """
    return key.read_bytes(), certificate.read_bytes()
