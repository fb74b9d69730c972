"""What a code of Kafka's means: all that the client knows are in the table, and each leads to what it says."""

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException

from filemill.adapters.errors import ErrorCategory
from filemill.adapters.kafka.client import kafka_errors, to_exception
from filemill.adapters.kafka.errors import RECOVERED_BY_CLIENT, RULES, TOO_LARGE, KafkaErrorRule, classify
from filemill.adapters.kafka.reader import read_records
from filemill.config.settings import load
from filemill.errors import MemberExpelled, Unavailable

# Codes of no error.
NONE = {"NO_ERROR"}


def test_every_code_that_the_client_knows_is_in_the_table_once() -> None:
    names = {name for name, value in vars(KafkaError).items() if name.lstrip("_").isupper() and isinstance(value, int)}
    assert len(names) > 180
    assert sorted(names - NONE) == sorted(row.name for row in RULES)
    assert len({row.number for row in RULES}) == len(RULES)


@pytest.mark.parametrize("row", RULES, ids=lambda row: row.name)
def test_an_error_is_raised_as_the_table_says(row: KafkaErrorRule) -> None:
    error = KafkaError(row.number)
    with pytest.raises((Unavailable, KafkaException)) as caught, kafka_errors(load()):
        raise KafkaException(error)
    if row.category is ErrorCategory.BUG:
        assert isinstance(caught.value, KafkaException)
        assert isinstance(to_exception(load(), error), KafkaException)
        assert not row.client_recovers
        return
    assert isinstance(caught.value, Unavailable)
    assert str(caught.value).startswith(f"Kafka at {load().kafka_broker} {row.problem}: ")
    assert error.str() in str(caught.value)
    assert caught.value.advice == row.advice
    assert bool(row.advice) >= (row.category is ErrorCategory.ACTION_REQUIRED)


class _Consumer:
    """Hands out one message, an error."""

    def __init__(self, error: KafkaError) -> None:
        self._error: KafkaError | None = error

    def poll(self, _seconds: float) -> "_Consumer":
        return self

    def consume(self, _count: int, timeout: float) -> list[object]:
        del timeout
        return []

    def error(self) -> KafkaError | None:
        return self._error


def read_meeting(error: KafkaError) -> object:
    consumer: Consumer = _Consumer(error)  # type: ignore[assignment]
    return read_records(consumer, load(), 10, 0)


@pytest.mark.parametrize("row", RULES, ids=lambda row: row.name)
def test_a_reader_goes_on_where_its_client_does(row: KafkaErrorRule) -> None:
    if row.client_recovers:
        assert read_meeting(KafkaError(row.number)) == []
    else:
        with pytest.raises((Unavailable, KafkaException)):
            read_meeting(KafkaError(row.number))


def test_a_client_that_gave_up_is_replaced_but_not_against_one_of_the_same_name() -> None:
    with pytest.raises(MemberExpelled):
        read_meeting(KafkaError(KafkaError._FATAL, "gave up", fatal=True))
    with pytest.raises(Unavailable, match="under the name of this one") as caught:
        read_meeting(KafkaError(KafkaError.FENCED_INSTANCE_ID, "fenced", fatal=True))
    assert not isinstance(caught.value, MemberExpelled)


@pytest.mark.parametrize(
    ("code", "answer", "passes"),
    [
        (KafkaError._TRANSPORT, ErrorCategory.TRANSIENT, True),
        (KafkaError._MAX_POLL_EXCEEDED, ErrorCategory.TRANSIENT, True),
        (KafkaError.COORDINATOR_LOAD_IN_PROGRESS, ErrorCategory.TRANSIENT, True),
        (KafkaError.NOT_ENOUGH_REPLICAS, ErrorCategory.ACTION_REQUIRED, True),
        (KafkaError.SASL_AUTHENTICATION_FAILED, ErrorCategory.ACTION_REQUIRED, True),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, ErrorCategory.ACTION_REQUIRED, True),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, ErrorCategory.ACTION_REQUIRED, True),
        (KafkaError.INVALID_PRODUCER_EPOCH, ErrorCategory.TRANSIENT, False),
        (KafkaError.UNKNOWN_MEMBER_ID, ErrorCategory.TRANSIENT, False),
        (KafkaError.FENCED_INSTANCE_ID, ErrorCategory.ACTION_REQUIRED, False),
        (KafkaError.UNSUPPORTED_VERSION, ErrorCategory.ACTION_REQUIRED, False),
        (KafkaError.MSG_SIZE_TOO_LARGE, ErrorCategory.BUG, False),
        (KafkaError._INVALID_ARG, ErrorCategory.BUG, False),
    ],
)
def test_what_follows_a_code(code: int, answer: ErrorCategory, passes: bool) -> None:
    row = classify(KafkaError(code))
    assert (row.category, row.client_recovers) == (answer, passes)


def test_a_code_of_a_newer_broker_is_its_trouble() -> None:
    assert classify(KafkaError(999)).category is ErrorCategory.ACTION_REQUIRED
    assert 999 not in RECOVERED_BY_CLIENT


def test_what_no_broker_will_take_is_the_records_own_fault() -> None:
    assert {classify(KafkaError(code)).category for code in TOO_LARGE} == {ErrorCategory.BUG}
