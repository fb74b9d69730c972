"""The bytes of a file: the template of the reference design, filled from the request alone."""

import hashlib
from datetime import UTC, datetime, timedelta, timezone

from filemill.domain.content import render, sha256_hex

REQUESTED_AT = datetime(2026, 1, 4, 12, 0, tzinfo=UTC)

SEEDS_TEMPLATE = """\
===================
GENERATED FILE
===================
Title: My File
Description: Description
Generated at: 2026-01-04T12:00:00.000Z
"""


def test_the_text_is_the_template_of_the_reference_design() -> None:
    assert render("My File", "Description", REQUESTED_AT).decode() == SEEDS_TEMPLATE


def test_the_same_request_has_the_same_bytes() -> None:
    elsewhere = REQUESTED_AT.astimezone(timezone(timedelta(hours=-8)))
    assert render("t", "d", elsewhere) == render("t", "d", REQUESTED_AT)


def test_any_part_of_the_request_changes_the_bytes() -> None:
    bodies = {
        render("t", "d", REQUESTED_AT),
        render("t2", "d", REQUESTED_AT),
        render("t", "d2", REQUESTED_AT),
        render("t", "d", REQUESTED_AT + timedelta(milliseconds=1)),
    }
    assert len(bodies) == 4


def test_text_is_not_changed() -> None:
    body = render("{title} %s <b>", "{0}\r\nline two\n\n文件 🎉", REQUESTED_AT).decode()
    assert "Title: {title} %s <b>\n" in body
    assert "Description: {0}\r\nline two\n\n文件 🎉\n" in body


def test_an_empty_description_keeps_its_line() -> None:
    assert b"\nDescription: \nGenerated at: " in render("t", "", REQUESTED_AT)


def test_the_hash_is_sha256_in_hexadecimal() -> None:
    assert sha256_hex(b"abc") == hashlib.sha256(b"abc").hexdigest()
    assert len(sha256_hex(b"")) == 64
