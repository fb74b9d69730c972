"""Hosts and origins: compared as browsers do; no header content raises."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filemill.domain.origins import (
    Authority,
    Origin,
    has_user_info,
    is_loopback_name,
    parse_host,
    parse_ip,
    parse_origin,
    redact_passwords,
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("localhost", Authority("localhost", None)),
        ("LocalHost:8501", Authority("localhost", 8501)),
        ("127.0.0.1:80", Authority("127.0.0.1", 80)),
        ("[::1]:8501", Authority("::1", 8501)),
        ("[0:0:0:0:0:0:0:1]", Authority("::1", None)),
        ("[::ffff:127.0.0.1]:1", Authority("127.0.0.1", 1)),
        ("files.example:443", Authority("files.example", 443)),
        ("my_host-1", Authority("my_host-1", None)),
    ],
)
def test_a_host_header_is_a_name_and_an_optional_port(text: str, found: Authority) -> None:
    assert parse_host(text) == found


@pytest.mark.parametrize(
    "text",
    ["", ":", ":80", "a:", "a:0", "a:65536", "a:b", "a b", "a/b", "u@a", "u:p@a", "[", "[]", "[::1", "::1", "[::g]",
     "a,b", "a\0", "é", "localhost.", ".a", "-a", "a" * 301, "[fe80::1%lo]"],
)  # fmt: skip
def test_an_invalid_host_header_is_none(text: str) -> None:
    assert parse_host(text) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("http://127.0.0.1:8501", Origin("http", "127.0.0.1", 8501)),
        ("https://files.example", Origin("https", "files.example", 443)),
        ("HTTPS://FILES.example:443", Origin("https", "files.example", 443)),
        ("http://files.example:80", Origin("http", "files.example", 80)),
        ("http://[::1]:8501", Origin("http", "::1", 8501)),
    ],
)
def test_an_origin_has_an_effective_port(text: str, found: Origin) -> None:
    assert parse_origin(text) == found


@pytest.mark.parametrize(
    "text",
    ["null", "", "http://[", "http://", "http://a/", "http://a/b", "http://u@a", "ftp://a", "a", "//a", "http://a:0",
     "http://a:99999", "http://a b", "file://", "http://" + "a" * 30_000, "http://a, http://a"],
)  # fmt: skip
def test_an_invalid_origin_is_none(text: str) -> None:
    assert parse_origin(text) is None


@settings(deadline=None)
@given(st.binary(max_size=400) | st.text(alphabet="htps:/[]0123456789.af@%,null ", max_size=400).map(str.encode))
def test_no_header_content_raises(value: bytes) -> None:
    text = value.decode("latin-1")
    parse_host(text)
    parse_origin(text)
    parse_ip(text)
    is_loopback_name(text)
    has_user_info(text)
    redact_passwords(text)


def test_loopback_names_never_depend_on_a_name_server() -> None:
    assert all(map(is_loopback_name, ["localhost", "127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"]))
    assert not any(map(is_loopback_name, ["localhost.evil.example", "0.0.0.0", "10.0.0.1", "", "a.localhost"]))  # noqa: S104


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("S3 at http://user:pa55@s3:4566/bucket is away", "S3 at http://s3:4566/bucket is away"),
        ("https://user:p:a@h, http://x:y@z", "https://h, http://z"),
        ("postgresql://fileuser@127.0.0.1:5432/filedb", "postgresql://fileuser@127.0.0.1:5432/filedb"),
        ("http://a:80/b@c", "http://a:80/b@c"),
        ("no address: a@b", "no address: a@b"),
    ],
)
def test_passwords_in_urls_are_redacted(text: str, shown: str) -> None:
    assert redact_passwords(text) == shown
