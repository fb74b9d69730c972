"""The security.toml of SeaweedFS and its certificates.

The components (master, volume server, filer) have their own ports, without authentication by default. With these files,
their HTTP requires a signed token and their gRPC a certificate.
"""

import secrets

import trustme

SECURITY = "security.toml"

_SIGNED = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
_COMPONENTS = ("master", "volume", "filer", "s3", "admin", "worker", "client")


def create_security_files(folder: str, host: str) -> dict[str, bytes]:
    """Create keys for tokens and a certificate for `host`; returns file contents by name, security.toml last.

    security.toml refers to the other files in `folder`; if it is empty, in the working folder. The CA's key is not
    kept.
    """
    authority = trustme.CA()
    certificate = authority.issue_cert(host)
    pems = {
        "ca.pem": authority.cert_pem,
        "certificate.pem": certificate.cert_chain_pems[0],
        "key.pem": certificate.private_key_pem,
    }
    prefix = f"{folder}/" if folder else ""
    tables = [f'[{name}]\nkey = "{secrets.token_urlsafe(32)}"' for name in _SIGNED]
    tables.append(f'[grpc]\nca = "{prefix}ca.pem"')
    tables += [
        f'[grpc.{component}]\ncert = "{prefix}certificate.pem"\nkey = "{prefix}key.pem"' for component in _COMPONENTS
    ]
    return {name: blob.bytes() for name, blob in pems.items()} | {SECURITY: ("\n".join(tables) + "\n").encode()}
