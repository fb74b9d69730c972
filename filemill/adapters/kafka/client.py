"""Kafka: the configuration and errors that all clients share, and the publisher."""

import contextlib
import logging
import operator
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient

from filemill.adapters.errors import ErrorCategory
from filemill.adapters.kafka.errors import TOO_LARGE, KafkaErrorCode, classify
from filemill.config.settings import InvalidSettings, Settings
from filemill.domain.messages import Headers
from filemill.errors import DeadLetterCode, PermanentError, Unavailable
from filemill.ports import DeliveryReport

# Producers and members discover new partitions within this time (librdkafka's default is five minutes).
METADATA_REFRESH_MILLISECONDS = 3000
# A caller that publishes batch by batch waits no longer than this for a batch to be sent.
LINGER_MILLISECONDS = 5
# After this time an unacknowledged record fails, and its sender decides whether to retry.
DELIVERY_TIMEOUT_MILLISECONDS = 30_000
# A dead letter is the original record, up to the broker's limit of 1 MB, with more headers. Its topic allows this.
MESSAGE_MAX_BYTES = 2 * 1024 * 1024

# The most bytes of an unreadable header name that are quoted.
_SHOWN_NAME_BYTES = 100

log = structlog.get_logger("kafka")

# A refused connection is an unreachable broker to the call that waits for it; the cause is reported elsewhere. The last
# refusal of each login, and when it came. It explains failures for this long.
REFUSAL_SECONDS = 30.0
_REFUSALS = {KafkaErrorCode.AUTHENTICATION, KafkaErrorCode.TLS}
_refused: dict[tuple[str, ...], tuple[float, KafkaError]] = {}

Client = TypeVar("Client")


# librdkafka reports it in its log only, without a code.
OFFSET_RESET = "offset reset (at offset"


class _ClientLog(logging.Handler):
    """Logs librdkafka's own lines. Most repeat a reported error, so their level is debug."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        # The only sign that a consumer continues elsewhere, because its offset does not exist any more.
        write = log.warning if OFFSET_RESET in message else log.debug
        write("librdkafka", message=message)


_client_logger = logging.Logger("librdkafka")  # noqa: LOG001 - not in the tree: it must not reach the root's handlers
_client_logger.addHandler(_ClientLog())


def client_config(settings: Settings, role: str, **properties: Any) -> dict[str, Any]:  # noqa: ANN401
    """Librdkafka's properties for one client. The user's own (`kafka_properties`) override them."""
    return {
        "bootstrap.servers": settings.kafka_broker,
        "client.id": settings.worker_id,
        "topic.metadata.refresh.interval.ms": METADATA_REFRESH_MILLISECONDS,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        "allow.auto.create.topics": False,
        "error_cb": _log_new_errors(settings, role),
        "logger": _client_logger,
        **_security(settings),
        **properties,
        **settings.kafka_properties,
    }


def _security(settings: Settings) -> dict[str, Any]:
    """How a client encrypts its connection and signs in. Nothing by default, so that `kafka_properties` can say it."""
    if settings.kafka_security == "plaintext":
        return {}
    found = {"security.protocol": settings.kafka_security.upper()}
    if settings.kafka_ca_bundle is not None:
        found["ssl.ca.location"] = str(settings.kafka_ca_bundle)
    if settings.kafka_user:
        found |= {
            "sasl.mechanism": settings.kafka_sasl_mechanism,
            "sasl.username": settings.kafka_user,
            "sasl.password": settings.kafka_password.get_secret_value(),
        }
    return found


def new_client(client: Callable[[dict[str, Any]], Client], config: dict[str, Any]) -> Client:
    """Make a client of confluent_kafka. Raises InvalidSettings if librdkafka rejects a property."""
    try:
        return client(config)
    except KafkaException as error:
        raise InvalidSettings(f"kafka_properties: {error.args[0].str()}") from None
    except ValueError as error:
        raise InvalidSettings(f"kafka_properties: {error}") from None


def _login(settings: Settings) -> tuple[str, ...]:
    """What a broker refuses: a user with a kind of connection."""
    return (settings.kafka_broker, settings.kafka_security, settings.kafka_user)


def _log_new_errors(settings: Settings, role: str) -> Callable[[KafkaError], None]:
    """Log each kind of error once, not at every reconnection of the client."""
    logged: set[int] = set()

    def on_error(error: KafkaError) -> None:
        rule = classify(error)
        if rule.code in _REFUSALS:
            _refused[_login(settings)] = (time.monotonic(), error)
        if error.code() not in logged:
            logged.add(error.code())
            more = {"advice": rule.advice} if rule.advice else {}
            log.warning(
                "Kafka error", role=role, broker=settings.kafka_broker, code=rule.code, error=error.str(), **more
            )

    return on_error


def to_exception(settings: Settings, error: KafkaException | KafkaError) -> Unavailable | KafkaException:
    """The exception to raise for an error, by its rule: Unavailable, or the client's own exception for a bug."""
    cause = error.args[0] if isinstance(error, KafkaException) else error
    if not isinstance(cause, KafkaError):
        return Unavailable(f"Kafka at {settings.kafka_broker} failed: {cause}", code=KafkaErrorCode.UNKNOWN)
    rule = classify(cause)
    if rule.code is KafkaErrorCode.UNREACHABLE:
        at, refusal = _refused.get(_login(settings), (float("-inf"), cause))
        if time.monotonic() - at < REFUSAL_SECONDS:
            rule, cause = classify(refusal), refusal
    if rule.category is ErrorCategory.BUG:
        return error if isinstance(error, KafkaException) else KafkaException(error)
    problem = f"Kafka at {settings.kafka_broker} {rule.problem}: {cause.name()}: {cause.str()}"
    return Unavailable(problem, rule.advice, summary=rule.problem, code=rule.code)


def _delivery_error(error: KafkaError) -> str:
    """Why the broker did not store a record, and what to do about it."""
    advice = classify(error).advice
    return f"{error.str()}. {advice}" if advice else error.str()


@contextlib.contextmanager
def kafka_errors(settings: Settings, admin: AdminClient | None = None) -> Iterator[None]:
    """Translate the client's exceptions, by the rules of their errors.

    `admin`: the client that is used. Only with a poll it reports why the broker refused its connection.
    """
    try:
        yield
    except KafkaException as error:
        if admin is not None:
            admin.poll(0)
        raise to_exception(settings, error) from None


class KafkaPublisher:
    """An idempotent producer with acks=all. (port: Publisher).

    An idempotent producer fails for good when the broker has lost its sequence, for example because the log was
    truncated. Then the queued records fail, and a new producer sends the next ones.
    """

    def __init__(self, settings: Settings, role: str) -> None:
        self._settings = settings
        self._role = role
        self._broken = False
        self._lock = threading.Lock()
        self._retired: list[Producer] = []
        self._delivered = 0
        self._producer = self._new_producer()

    def _new_producer(self) -> Producer:
        config = client_config(
            self._settings,
            self._role,
            **{
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": LINGER_MILLISECONDS,
                "delivery.timeout.ms": DELIVERY_TIMEOUT_MILLISECONDS,
                "message.max.bytes": MESSAGE_MAX_BYTES,
            },
        )
        log_error = config["error_cb"]

        def on_error(error: KafkaError) -> None:
            self._broken = self._broken or error.fatal()
            log_error(error)

        return new_client(Producer, {**config, "error_cb": on_error})

    def _replace(self) -> None:
        """Replace a producer that failed for good. Any thread. Its queued records fail, which `poll` reports."""
        with self._lock:
            if not self._broken:
                return  # another thread has replaced it
            log.error("Replacing a producer after a fatal error", role=self._role)
            self._producer.purge()
            self._retired.append(self._producer)
            self._producer, self._broken = self._new_producer(), False

    def publish(
        self,
        topic: str,
        value: bytes | None,
        on_delivery: Callable[[DeliveryReport], None] | None = None,
        *,
        key: str | None = None,
        partition: int | None = None,
        headers: Headers | None = None,
    ) -> None:
        """Queue a record."""

        def on_client_delivery(error: KafkaError | None, message: Message) -> None:
            assert on_delivery is not None
            self._delivered += 1
            if error is None:
                on_delivery(DeliveryReport(message.partition() or 0, message.offset() or 0))
            else:
                too_large, code = error.code() in TOO_LARGE, classify(error).code
                on_delivery(DeliveryReport(-1, -1, _delivery_error(error), too_large, code))

        options: dict[str, Any] = {"partition": partition} if partition is not None else {}
        if headers:
            options["headers"] = headers
        if on_delivery is not None:
            options["on_delivery"] = on_client_delivery
        if self._broken:
            self._replace()
        try:
            self._producer.produce(topic, value, key=key, **options)
        except BufferError:
            problem = f"Kafka at {self._settings.kafka_broker}: the producer's queue is full"
            raise Unavailable(problem, code=KafkaErrorCode.QUEUE_FULL) from None
        except KafkaException as error:
            if error.args[0].code() in TOO_LARGE:
                raise PermanentError(
                    f"a record of {len(value or b'')} bytes is too large for Kafka", DeadLetterCode.RECORD_TOO_LARGE
                ) from None
            raise to_exception(self._settings, error) from None

    def poll(self, seconds: float = 0) -> int:
        """Call the delivery callbacks; returns their number."""
        before = self._delivered
        for producer in list(self._retired):
            producer.poll(0)
            if not len(producer):
                self._retired.remove(producer)
        self._producer.poll(seconds)
        return self._delivered - before

    def flush(self, seconds: float) -> int:
        """Wait until nothing is queued."""
        return self._producer.flush(seconds)

    def partitions(self, topic: str) -> int:
        """Ask the broker. This also refreshes the client's metadata; without it a publish to a new partition fails."""
        with kafka_errors(self._settings):
            metadata = self._producer.list_topics(topic, timeout=self._settings.server_timeout_seconds)
        found = metadata.topics.get(topic)
        return len(found.partitions) if found is not None and found.error is None else 0


class UnreadableHeaders(ValueError):
    """A record's headers cannot be read. The text says why."""


# `message.headers()` must not be written: see `headers_of`.
_call_headers: Callable[[Message], Headers | None] = operator.methodcaller("headers")


def headers_of(message: Message) -> Headers:
    """A message's headers in their order. Raises UnreadableHeaders if a name is not UTF-8.

    No other code may call `message.headers()`. For such a name the client returns a list that contains a null pointer,
    and leaves an exception set (docs/confluent-kafka-headers.md). The interpreter checks a call through `methodcaller`:
    it raises SystemError and drops the list. It does not check a specialized `message.headers()`, and then the list
    crashes the process. The message keeps the list, so it is replaced.
    """
    try:
        return _call_headers(message) or []
    except (SystemError, UnicodeDecodeError) as error:
        message.set_headers([])
        cause = error if isinstance(error, UnicodeDecodeError) else error.__cause__
        name = f": {cause.object[:_SHOWN_NAME_BYTES]!r}" if isinstance(cause, UnicodeDecodeError) else ""
        raise UnreadableHeaders(f"headers unreadable: a name is not UTF-8{name}") from None
