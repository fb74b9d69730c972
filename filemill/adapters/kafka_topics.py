"""Which topic it is: a name may be given to another topic, an id never is."""

import contextlib
import threading
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from filemill.adapters.kafka import client_config, kafka_errors, new_client
from filemill.ports import TopicIdentity
from filemill.retry import Unavailable
from filemill.settings import Settings

log = structlog.get_logger("kafka")

# As often as clients refresh their metadata (METADATA_REFRESH_MILLISECONDS): one request for one topic.
WATCH_SECONDS = 3.0
# What a broker says of a topic that has no id: it is older than Kafka 2.8.
_NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"


class TopicIdentities:
    """Asks the broker. One connection, made at the first question and again after a failed one. Any thread.

    A client that failed is not used again: one that outlives an outage can end the process (librdkafka 2.16, an
    assertion in rd_kafka_enq_once_del_source_return, when a stopped broker goes on).
    """

    def __init__(self, settings: Settings, role: str) -> None:
        self._settings = settings
        self._role = role
        self._client: AdminClient | None = None

    def __call__(self, topics: Collection[str]) -> dict[str, TopicIdentity]:
        """The topics that exist. Raises retry.Unavailable."""
        timeout = self._settings.server_timeout_seconds
        with self._errors():
            # A broker that answers under the same address may be another cluster's.
            metadata: Any = self._connect().list_topics(timeout=timeout)
            cluster_id = metadata.cluster_id or ""
            return {
                topic: TopicIdentity(str(described.topic_id), cluster_id, len(described.partitions))
                for topic, described in self._describe(topics).items()
            }

    def topic_id(self, topic: str) -> str:
        """The topic's id alone, by one request; "" for no such topic. Raises retry.Unavailable."""
        with self._errors():
            described = self._describe([topic]).get(topic)
        found = "" if described is None else str(described.topic_id)
        return "" if found == _NO_ID else found

    def _connect(self) -> AdminClient:
        if self._client is None:
            self._client = new_client(AdminClient, client_config(self._settings, self._role))
        return self._client

    def _describe(self, topics: Collection[str]) -> dict[str, Any]:
        wanted = TopicCollection(sorted(topics))
        asked = self._connect().describe_topics(wanted, request_timeout=self._settings.server_timeout_seconds)
        found = {}
        for topic, future in asked.items():
            try:
                found[topic] = future.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
        return found

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with kafka_errors(self._settings):
                yield
        except Exception:
            self._client = None
            raise


class Answer(NamedTuple):
    """What the broker said of a topic: its id, "" if there is none. `question` is the number of the question."""

    question: int
    topic_id: str


class TopicWatch:
    """Asks every few seconds which topic has a name, on a thread of its own: a consumer's thread must not wait."""

    def __init__(self, settings: Settings, topic: str, every: float = WATCH_SECONDS) -> None:
        self.answer = Answer(0, "")  # the latest; replaced whole, read by any thread
        self._identities = TopicIdentities(settings, "processor")
        self._topic = topic
        self._every = every
        self._changed = threading.Condition()
        self._question = 1  # the greatest that anybody wants answered
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="topic-watch", daemon=True)
        self._thread.start()

    def look(self, seconds: float) -> Answer:
        """Ask now, and wait for the answer. Without one in time its id is "", and it may come later."""
        with self._changed:
            self._question += 1
            wanted = self._question
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.answer.question >= wanted or self._closed, seconds)
            return self.answer if self.answer.question >= wanted else Answer(wanted, "")

    def stop(self) -> None:
        """Ask no more. Does not wait for a question that is under way."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait for the end of the thread, and of its connection, which `stop` has asked for."""
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self.answer.question < self._question, self._every)
                if self._closed:
                    return
                question = self._question
            topic_id = self._ask()
            with self._changed:
                self.answer = Answer(question, topic_id)
                self._changed.notify_all()

    def _ask(self) -> str:
        try:
            return self._identities.topic_id(self._topic)
        except Exception as error:  # noqa: BLE001 - a thread that ends would leave the member without answers
            level = log.debug if isinstance(error, Unavailable) else log.warning
            level("Topic id unknown", topic=self._topic, error=str(error))
            return ""
