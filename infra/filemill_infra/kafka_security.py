"""Certificates for Kafka. Its PEM files need the key as PKCS #8."""

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


def as_pkcs8(key: bytes) -> bytes:
    """A private key (PEM) in the format PKCS #8 (PEM), without encryption."""
    return load_pem_private_key(key, password=None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
