"""The rules of Kafka's errors: every code of the client has one, and it is applied."""

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException

from filemill.adapters.errors import ErrorCategory
from filemill.adapters.kafka.client import kafka_errors, to_exception
from filemill.adapters.kafka.errors import (
    RECOVERED_BY_CLIENT,
    RULES,
    TOO_LARGE,
    KafkaErrorCode,
    KafkaErrorRule,
    classify,
)
from filemill.adapters.kafka.reader import read_records
from filemill.config.settings import load
from filemill.errors import MemberExpelled, Unavailable

# Not errors.
NO_ERROR = {"NO_ERROR"}


def test_every_error_code_of_the_client_has_one_rule() -> None:
    names = {name for name, value in vars(KafkaError).items() if name.lstrip("_").isupper() and isinstance(value, int)}
    assert len(names) > 180
    assert sorted(names - NO_ERROR) == sorted(rule.name for rule in RULES)
    assert len({rule.number for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_an_error_is_raised_according_to_its_rule(rule: KafkaErrorRule) -> None:
    error = KafkaError(rule.number)
    with pytest.raises((Unavailable, KafkaException)) as caught, kafka_errors(load()):
        raise KafkaException(error)
    if rule.category is ErrorCategory.BUG:
        assert isinstance(caught.value, KafkaException)
        assert isinstance(to_exception(load(), error), KafkaException)
        assert not rule.client_recovers
        return
    assert isinstance(caught.value, Unavailable)
    assert str(caught.value).startswith(f"Kafka at {load().kafka_broker} {rule.problem}: ")
    assert error.str() in str(caught.value)
    assert caught.value.advice == rule.advice
    assert caught.value.code == rule.code
    assert bool(rule.advice) >= (rule.category is ErrorCategory.ACTION_REQUIRED)


class _Consumer:
    """Returns one message, an error."""

    def __init__(self, error: KafkaError) -> None:
        self._error: KafkaError | None = error

    def poll(self, _seconds: float) -> "_Consumer":
        return self

    def consume(self, _count: int, timeout: float) -> list[object]:
        del timeout
        return []

    def error(self) -> KafkaError | None:
        return self._error


def read_with_error(error: KafkaError) -> object:
    consumer: Consumer = _Consumer(error)  # type: ignore[assignment]
    return read_records(consumer, load(), 10, 0)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_reader_continues_if_the_client_recovers(rule: KafkaErrorRule) -> None:
    if rule.client_recovers:
        assert read_with_error(KafkaError(rule.number)) == []
    else:
        with pytest.raises((Unavailable, KafkaException)):
            read_with_error(KafkaError(rule.number))


def test_a_failed_client_is_replaced_unless_another_has_its_name() -> None:
    with pytest.raises(MemberExpelled):
        read_with_error(KafkaError(KafkaError._FATAL, "gave up", fatal=True))
    with pytest.raises(Unavailable, match="under the name of this one") as caught:
        read_with_error(KafkaError(KafkaError.FENCED_INSTANCE_ID, "fenced", fatal=True))
    assert not isinstance(caught.value, MemberExpelled)
    assert caught.value.code == KafkaErrorCode.INSTANCE_FENCED


@pytest.mark.parametrize(
    ("code", "category", "client_recovers"),
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
def test_rules_of_some_errors(code: int, category: ErrorCategory, client_recovers: bool) -> None:
    rule = classify(KafkaError(code))
    assert (rule.category, rule.client_recovers) == (category, client_recovers)


def test_an_unknown_code_needs_action() -> None:
    assert classify(KafkaError(999)).category is ErrorCategory.ACTION_REQUIRED
    assert 999 not in RECOVERED_BY_CLIENT


def test_a_record_that_is_too_large_is_a_bug() -> None:
    assert {classify(KafkaError(code)).category for code in TOO_LARGE} == {ErrorCategory.BUG}
