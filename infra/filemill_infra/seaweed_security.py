"""The security.toml of SeaweedFS, and the files that it names.

Its parts (master, volume server, filer) have ports of their own and trust whoever connects. With these files their HTTP
needs a signed token, and their gRPC needs a certificate.
"""

import secrets

import trustme

SECURITY = "security.toml"

_SIGNED = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
_PARTS = ("master", "volume", "filer", "s3", "admin", "worker", "client")


def draw_security(folder: str, host: str) -> dict[str, bytes]:
    """Draw the keys of tokens, and a certificate for `host` that the parts show each other; contents by file name.

    security.toml, the last of them, finds the others in `folder`: empty for the folder that SeaweedFS works in. The
    CA's key is not kept.
    """
    authority = trustme.CA()
    certificate = authority.issue_cert(host)
    pems = {
        "ca.pem": authority.cert_pem,
        "certificate.pem": certificate.cert_chain_pems[0],
        "key.pem": certificate.private_key_pem,
    }
    place = f"{folder}/" if folder else ""
    tables = [f'[{name}]\nkey = "{secrets.token_urlsafe(32)}"' for name in _SIGNED]
    tables.append(f'[grpc]\nca = "{place}ca.pem"')
    tables += [f'[grpc.{part}]\ncert = "{place}certificate.pem"\nkey = "{place}key.pem"' for part in _PARTS]
    return {name: blob.bytes() for name, blob in pems.items()} | {SECURITY: ("\n".join(tables) + "\n").encode()}
