"""Identities of topics: a name may be reused for another topic, an id is not."""

import contextlib
import threading
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from filemill.adapters.kafka.client import client_config, kafka_errors, new_client
from filemill.config.settings import Settings
from filemill.domain.records import TopicIdentity
from filemill.errors import Unavailable

log = structlog.get_logger("kafka")

# As often as clients refresh their metadata (METADATA_REFRESH_MILLISECONDS): one request for one topic.
WATCH_SECONDS = 3.0
# The id that a broker older than Kafka 2.8 returns.
_NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"


class TopicIdentities:
    """Asks the broker for the identities of topics, over one connection that the first call opens. Any thread.

    A client is replaced after a failed request: one that outlives an outage can end the process (librdkafka 2.16, an
    assertion in rd_kafka_enq_once_del_source_return when a suspended broker continues).
    """

    def __init__(self, settings: Settings, role: str) -> None:
        self._settings = settings
        self._role = role
        self._client: AdminClient | None = None

    def __call__(self, topics: Collection[str]) -> dict[str, TopicIdentity]:
        """The identities of those of the topics that exist. Raises Unavailable."""
        timeout = self._settings.server_timeout_seconds
        with self._errors():
            # A broker at the same address may belong to another cluster.
            metadata: Any = self._connect().list_topics(timeout=timeout)
            cluster_id = metadata.cluster_id or ""
            return {
                topic: TopicIdentity(str(described.topic_id), cluster_id, len(described.partitions))
                for topic, described in self._describe(topics).items()
            }

    def topic_id(self, topic: str) -> str:
        """The topic's id alone, by one request; "" if there is no such topic. Raises Unavailable."""
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
            with kafka_errors(self._settings, self._connect()):
                yield
        except Exception:
            self._client = None
            raise


class TopicIdAnswer(NamedTuple):
    """The broker's answer: the topic's id, "" if there is none. `question` is the number of the request."""

    question: int
    topic_id: str


class TopicIdWatch:
    """Asks for the id of a topic every few seconds, on a thread of its own: a consumer's thread must not wait."""

    def __init__(self, settings: Settings, topic: str, every: float = WATCH_SECONDS) -> None:
        self.answer = TopicIdAnswer(0, "")  # the latest; replaced whole, read by any thread
        self._identities = TopicIdentities(settings, "processor")
        self._topic = topic
        self._every = every
        self._changed = threading.Condition()
        self._question = 1  # the highest number that was asked for
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="topic-watch", daemon=True)
        self._thread.start()

    def ask(self, seconds: float) -> TopicIdAnswer:
        """Ask now and wait for the answer. Without one in time the id is ""; it may arrive later."""
        with self._changed:
            self._question += 1
            wanted = self._question
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.answer.question >= wanted or self._closed, seconds)
            return self.answer if self.answer.question >= wanted else TopicIdAnswer(wanted, "")

    def stop(self) -> None:
        """Stop asking. Does not wait for a request in flight."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait for the end of the thread and of its connection, after `stop`."""
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self.answer.question < self._question, self._every)
                if self._closed:
                    return
                question = self._question
            topic_id = self._request()
            with self._changed:
                self.answer = TopicIdAnswer(question, topic_id)
                self._changed.notify_all()

    def _request(self) -> str:
        try:
            return self._identities.topic_id(self._topic)
        except Exception as error:  # noqa: BLE001 - without this thread the member gets no answers
            level = log.debug if isinstance(error, Unavailable) else log.warning
            level("Topic id unknown", topic=self._topic, error=str(error))
            return ""
