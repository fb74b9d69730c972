"""Certificates of a deployment: what they are valid for, how long, and by whom they are trusted."""

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from filemill_infra.certificates import VALID_FOR, Issued, expires_at, issue

SERVERS = {"one": ("one", "localhost", "127.0.0.1"), "other": ("other",)}


@pytest.fixture(scope="module")
def issued() -> Issued:
    return issue(SERVERS)


def test_each_server_has_its_own_key_and_names(issued: Issued) -> None:
    assert issued.servers["one"].key != issued.servers["other"].key
    certificate = x509.load_pem_x509_certificate(issued.servers["one"].chain)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"one", "localhost"}
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_certificates_expire_after_the_stated_time() -> None:
    now = datetime(2026, 11, 30, tzinfo=UTC)
    issued = issue(SERVERS, now)
    assert expires_at(issued.servers["one"].chain) == now + VALID_FOR
    assert expires_at(issued.authority) > now + VALID_FOR


def test_the_authority_has_no_key_in_what_is_kept(issued: Issued) -> None:
    assert b"PRIVATE KEY" not in issued.authority
    assert all(b"PRIVATE KEY" not in server.chain for server in issued.servers.values())


@pytest.mark.parametrize(
    ("trusted", "name", "problem"),
    [
        ("own", "localhost", None),
        ("own", "other", "Hostname mismatch"),
        ("another", "localhost", "unable to get local issuer|self-signed|self signed"),
    ],
)
def test_a_client_verifies_authority_and_name(
    issued: Issued, tmp_path: Path, trusted: str, name: str, problem: str | None
) -> None:
    server = issued.servers["one"]
    (tmp_path / "server.pem").write_bytes(server.chain + server.key)
    here = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    here.load_cert_chain(tmp_path / "server.pem")
    authority = issued.authority if trusted == "own" else issue(SERVERS).authority
    there = ssl.create_default_context(cadata=authority.decode())
    if problem is None:
        _handshake(here, there, name)
    else:
        with pytest.raises(ssl.SSLCertVerificationError, match=problem):
            _handshake(here, there, name)


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """A handshake in memory. Raises the client's error."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = server.wrap_bio(to_server, to_client, server_side=True)
    other = client.wrap_bio(to_client, to_server, server_hostname=name)
    done = {"client": False, "server": False}
    for _ in range(10):
        for side, target in (("client", other), ("server", one)):
            if not done[side]:
                try:
                    target.do_handshake()
                    done[side] = True
                except ssl.SSLWantReadError:
                    pass
        if all(done.values()):
            return
    raise AssertionError("the handshake did not end")
