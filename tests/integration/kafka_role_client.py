"""A Kafka client that tries operations, to test which of them the broker refuses to a user."""

from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.admin._scram import ScramMechanism, UserScramCredentialDeletion
from confluent_kafka.cimpl import NewPartitions, NewTopic

REFUSED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError._WAIT_COORD,  # the broker does not tell this user the group's coordinator
    KafkaError._NOENT,  # the client knows no leader, because the broker hides the topic from this user
    KafkaError._PARTITION_EOF,  # nothing was read: a refused read is not always reported
}
SECONDS = 20.0


def allowed(error: KafkaError | None) -> bool:
    """Whether the result of an attempt is not a refusal. Raises the error if it is another one."""
    if error is None:
        return True
    if error.code() in REFUSED:
        return False
    raise KafkaException(error)


class KafkaRoleClient:
    """A client with librdkafka's properties of a user. Each method tries an operation; returns the broker's error."""

    def __init__(self, properties: Mapping[str, str]) -> None:
        self._properties: dict[str, Any] = {**properties, "log_level": 0}
        self._admin = AdminClient(self._properties)
        self._producer = Producer({**self._properties, "message.timeout.ms": SECONDS * 1000})

    def write(self, topic: str) -> KafkaError | None:
        answers: list[KafkaError | None] = []
        self._producer.produce(topic, b"{}", partition=0, on_delivery=lambda error, _message: answers.append(error))
        self._producer.flush(SECONDS)
        [error] = answers
        return error

    def read(self, topic: str, seconds: float = SECONDS) -> KafkaError | None:
        """Read a record of partition 0, which must have one; an error after this time."""
        # A client for each topic: one that was refused, or may not use its group, reads nothing assigned later.
        consumer = Consumer({**self._properties, "group.id": "unused", "enable.auto.commit": False})
        try:
            consumer.assign([TopicPartition(topic, 0, 0)])
            while True:
                message = consumer.poll(seconds)
                if message is None:
                    return KafkaError(KafkaError._PARTITION_EOF)
                error = message.error()
                if error is None or error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:
                    return error
        finally:
            consumer.close()

    def commit(self, group: str, topic: str) -> KafkaError | None:
        consumer = Consumer({**self._properties, "group.id": group, "enable.auto.commit": False})
        try:
            consumer.commit(offsets=[TopicPartition(topic, 0, 0)], asynchronous=False)
        except KafkaException as raised:
            return _error(raised)
        else:
            return None
        finally:
            consumer.close()

    def add_partitions(self, topic: str) -> KafkaError | None:
        return self._try(lambda: self._admin.create_partitions([NewPartitions(topic, 50)], validate_only=True))

    def delete(self, topic: str) -> KafkaError | None:
        return self._try(lambda: self._admin.delete_topics([topic]))

    def create(self, topic: str) -> KafkaError | None:
        return self._try(lambda: self._admin.create_topics([NewTopic(topic, 1, 1)]))

    def delete_records(self, topic: str) -> KafkaError | None:
        return self._try(lambda: self._admin.delete_records([TopicPartition(topic, 0, 1)]))

    def configure(self, topic: str) -> KafkaError | None:
        entry = ConfigEntry("retention.ms", "1000", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        return self._try(lambda: self._admin.incremental_alter_configs([resource]))

    def delete_user(self, user: str) -> KafkaError | None:
        deletion = UserScramCredentialDeletion(user, ScramMechanism.SCRAM_SHA_512)
        return self._try(lambda: self._admin.alter_user_scram_credentials([deletion]))

    def _try(self, call: Callable[[], Any]) -> KafkaError | None:
        try:
            for future in call().values():
                future.result(SECONDS)
        except KafkaException as raised:
            return _error(raised)
        return None


def _error(raised: KafkaException) -> KafkaError:
    error = raised.args[0]
    assert isinstance(error, KafkaError)
    return error
