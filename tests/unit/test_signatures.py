from datetime import UTC, datetime

import msgspec
import pytest
from pydantic import SecretStr

from filemill.config.settings import InvalidSettings, load
from filemill.domain.messages import FileCreated, Headers, encode
from filemill.domain.signatures import SIGNATURE_HEADER, ResultSigner, as_foreign

KEY, TOPIC = "k" * 32, "file.created"
RESULT = FileCreated(
    file_id=7,
    s3_location="file-7-1.txt",
    status="completed",
    timestamp=datetime(2026, 1, 4, tzinfo=UTC),
    run=2,
    sha256="0" * 64,
    size=5,
    worker_id="w",
    partition=1,
    offset=3,
    content_type="text/html",
)
SIGNED = encode(RESULT)
OF_AN_EARLIER_RUN = encode(msgspec.structs.replace(RESULT, run=1))
SIGNATURE = ResultSigner(KEY).headers(TOPIC, SIGNED)


def test_a_signed_result_is_accepted() -> None:
    assert ResultSigner(KEY).accepts(TOPIC, SIGNED, [("traceparent", b"x"), *SIGNATURE])


@pytest.mark.parametrize(
    ("topic", "value", "headers"),
    [
        ("other", SIGNED, SIGNATURE),
        (TOPIC, SIGNED + b" ", SIGNATURE),
        (TOPIC, OF_AN_EARLIER_RUN, SIGNATURE),
        (TOPIC, SIGNED, []),
        (TOPIC, SIGNED, [(SIGNATURE_HEADER, None)]),
        (TOPIC, SIGNED, [(SIGNATURE_HEADER, b"\xff\xfe")]),
        (TOPIC, SIGNED, ResultSigner("j" * 32).headers(TOPIC, SIGNED)),
        (TOPIC, SIGNED, [*SIGNATURE, (SIGNATURE_HEADER, b"0" * 64)]),
    ],
    ids=["topic", "value", "run", "no header", "no value", "not text", "another key", "a second header"],
)
def test_a_changed_result_is_not_accepted(topic: str, value: bytes, headers: Headers) -> None:
    assert not ResultSigner(KEY).accepts(topic, value, headers)


def test_without_a_key_nothing_is_signed_and_everything_is_accepted() -> None:
    signer = ResultSigner()
    headers: Headers = []
    assert signer.headers(TOPIC, b"{}") == headers
    assert signer.accepts(TOPIC, b"{}", [(SIGNATURE_HEADER, b"0")])


def test_a_foreign_result_states_no_more_than_the_reference_design_and_its_run() -> None:
    foreign = as_foreign(RESULT)
    stated = {name for name in foreign.__struct_fields__ if getattr(foreign, name) not in (None, {}, "default")}
    assert stated == {"file_id", "s3_location", "status", "timestamp", "run"}


def test_a_short_key_is_refused_and_not_shown() -> None:
    with pytest.raises(InvalidSettings, match="at least 32 characters") as caught:
        load(result_key="guessable-key")
    assert "guessable-key" not in str(caught.value)
    assert load(result_key=KEY).result_key == SecretStr(KEY)
