"""What a code of Kafka's means: all that the client knows are in the table, and each leads to what it says."""

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException

from filemill.adapters.errors import Answer
from filemill.adapters.kafka.client import kafka_errors, refusal
from filemill.adapters.kafka.errors import PASSING, ROWS, TOO_LARGE, Row, meaning
from filemill.adapters.kafka.reader import read_records
from filemill.config.settings import load
from filemill.errors import MemberExpelled, Unavailable

# Codes of no error.
NONE = {"NO_ERROR"}


def test_every_code_that_the_client_knows_is_in_the_table_once() -> None:
    names = {name for name, value in vars(KafkaError).items() if name.lstrip("_").isupper() and isinstance(value, int)}
    assert len(names) > 180
    assert sorted(names - NONE) == sorted(row.name for row in ROWS)
    assert len({row.code for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_an_error_is_raised_as_the_table_says(row: Row) -> None:
    error = KafkaError(row.code)
    with pytest.raises((Unavailable, KafkaException)) as caught, kafka_errors(load()):
        raise KafkaException(error)
    if row.answer is Answer.BUG:
        assert isinstance(caught.value, KafkaException)
        assert isinstance(refusal(load(), error), KafkaException)
        assert not row.passes
        return
    assert isinstance(caught.value, Unavailable)
    assert str(caught.value).startswith(f"Kafka at {load().kafka_broker} {row.problem}: ")
    assert error.str() in str(caught.value)
    assert caught.value.advice == row.advice
    assert bool(row.advice) >= (row.answer is Answer.MEND)


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


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_reader_goes_on_where_its_client_does(row: Row) -> None:
    if row.passes:
        assert read_meeting(KafkaError(row.code)) == []
    else:
        with pytest.raises((Unavailable, KafkaException)):
            read_meeting(KafkaError(row.code))


def test_a_client_that_gave_up_is_replaced_but_not_against_one_of_the_same_name() -> None:
    with pytest.raises(MemberExpelled):
        read_meeting(KafkaError(KafkaError._FATAL, "gave up", fatal=True))
    with pytest.raises(Unavailable, match="under this one's name") as caught:
        read_meeting(KafkaError(KafkaError.FENCED_INSTANCE_ID, "fenced", fatal=True))
    assert not isinstance(caught.value, MemberExpelled)


@pytest.mark.parametrize(
    ("code", "answer", "passes"),
    [
        (KafkaError._TRANSPORT, Answer.WAIT, True),
        (KafkaError._MAX_POLL_EXCEEDED, Answer.WAIT, True),
        (KafkaError.COORDINATOR_LOAD_IN_PROGRESS, Answer.WAIT, True),
        (KafkaError.NOT_ENOUGH_REPLICAS, Answer.MEND, True),
        (KafkaError.SASL_AUTHENTICATION_FAILED, Answer.MEND, True),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, Answer.MEND, True),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, Answer.MEND, True),
        (KafkaError.INVALID_PRODUCER_EPOCH, Answer.WAIT, False),
        (KafkaError.UNKNOWN_MEMBER_ID, Answer.WAIT, False),
        (KafkaError.FENCED_INSTANCE_ID, Answer.MEND, False),
        (KafkaError.UNSUPPORTED_VERSION, Answer.MEND, False),
        (KafkaError.MSG_SIZE_TOO_LARGE, Answer.BUG, False),
        (KafkaError._INVALID_ARG, Answer.BUG, False),
    ],
)
def test_what_follows_a_code(code: int, answer: Answer, passes: bool) -> None:
    row = meaning(KafkaError(code))
    assert (row.answer, row.passes) == (answer, passes)


def test_a_code_of_a_newer_broker_is_its_trouble() -> None:
    assert meaning(KafkaError(999)).answer is Answer.MEND
    assert 999 not in PASSING


def test_what_no_broker_will_take_is_the_records_own_fault() -> None:
    assert {meaning(KafkaError(code)).answer for code in TOO_LARGE} == {Answer.BUG}
