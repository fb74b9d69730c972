"""The keystore and the login configuration of a Kafka with TLS and users."""

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


def as_pkcs8(key: bytes) -> bytes:
    """A private key (PEM) in the format PKCS #8 (PEM), without encryption. Kafka's PEM files need it."""
    return load_pem_private_key(key, password=None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def plain_login(user: str, password: str) -> str:
    """The JAAS configuration of a listener for SASL/PLAIN with one user. It contains the password."""
    if '"' in password or "\\" in password:
        raise ValueError("a password in a JAAS configuration must have neither quotes nor backslashes")
    return f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";'
