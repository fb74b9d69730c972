"""A certificate authority (CA) of a deployment, and certificates of its servers.

The CA's key exists only while the certificates are issued. New certificates therefore need a new CA.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import trustme
from cryptography import x509

VALID_FOR = timedelta(days=5 * 365)


class Certificate(msgspec.Struct, frozen=True):
    """A certificate with its chain and its private key, both as PEM."""

    chain: bytes
    key: bytes


class Issued(msgspec.Struct, frozen=True):
    """The CA's certificate (PEM), and the certificates of the servers by their names."""

    authority: bytes
    servers: Mapping[str, Certificate]


def issue(servers: Mapping[str, Sequence[str]], now: datetime | None = None) -> Issued:
    """Issue a certificate for each server, valid for these host names and addresses."""
    authority = trustme.CA(organization_name="filemill")
    until = (now or datetime.now(UTC)) + VALID_FOR
    certificates = {}
    for server, names in servers.items():
        certificate = authority.issue_cert(*names, not_after=until)
        chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
        certificates[server] = Certificate(chain, certificate.private_key_pem.bytes())
    return Issued(authority.cert_pem.bytes(), certificates)


def expires_at(certificate: bytes) -> datetime:
    """When a certificate (PEM, the first of a chain) becomes invalid. Raises ValueError."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc
