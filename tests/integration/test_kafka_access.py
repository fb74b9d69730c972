"""Kafka with access control: each role can do its job, and nothing else. With a broker of its own."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.admin._scram import ScramMechanism, UserScramCredentialDeletion
from confluent_kafka.cimpl import NewPartitions, NewTopic

from filemill.config.settings import InvalidSettings, Settings, load, role_passwords
from filemill.domain.kafka_access import Grant, KafkaRole, Operation, Resource, grants
from filemill.entrypoints import bootstrap
from filemill.errors import Unavailable
from filemill_infra.embedded.ports import PortAllocator
from filemill_infra.embedded.processes.commands import ServerContext
from tests.integration.harness import PipelineHarness
from tests.integration.processes import ProcessGroup, wait_until
from tests.integration.secure_kafka import SecureKafka
from tests.servers import RunningServers, isolated_settings, patient_engine, watch

pytestmark = pytest.mark.full

REFUSED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError._WAIT_COORD,  # the broker does not tell this user the group's coordinator
    KafkaError._NOENT,  # the client knows no leader, because the broker hides the topic from this user
}
SECONDS = 20.0


@pytest.fixture(scope="module")
def kafka(servers: RunningServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    home = tmp_path_factory.mktemp("secure") / "home"
    home.mkdir()
    (home / "logs").mkdir()
    ports = PortAllocator(home, defaults=False)
    broker = SecureKafka(ServerContext(home=home, ports=ports, on_spawn=lambda pid, _signal: watch(servers, pid)))
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


@pytest.fixture
def settings(servers: RunningServers, kafka: SecureKafka) -> Settings:
    """An admin's settings of an empty pipeline, whose roles have their users."""
    return isolated_settings(servers, **kafka.settings())


def test_files_are_processed_by_roles_that_have_only_their_own_rights(
    settings: Settings, kafka: SecureKafka, servers: RunningServers, tmp_path: Path
) -> None:
    engine = patient_engine(settings)
    with (
        ProcessGroup(settings, tmp_path, lambda pid: watch(servers, pid)) as processes,
        contextlib.closing(PipelineHarness(settings, engine, processes)) as harness,
    ):
        started = {}
        for role in (KafkaRole.PROCESSOR, KafkaRole.SYNC, KafkaRole.MONITOR, KafkaRole.RELAY):
            started[role] = processes.start(role.value, None, **kafka.settings_of(role))
        for role, process in started.items():
            harness.wait_for_process(process, role.value)
        given = {**kafka.settings_of(KafkaRole.DASHBOARD), "port": 0}
        dashboard = processes.start("dashboard", None, **given)
        page = wait_until(lambda: _page_of(dashboard), SECONDS * 3, f"the page answers\n{dashboard.tail()}")
        assert page is not None
        with httpx.Client(base_url=page, timeout=SECONDS) as client:
            ids = [client.post("/api/files", json={"title": f"File {number}"}).json()["id"] for number in range(30)]
            harness.wait_for(ids, seconds=SECONDS * 2)
            for path in ("/api/lag", "/api/workers", "/api/topics", "/api/dead-letters", "/api/overview"):
                answer = client.get(path)
                assert answer.status_code < 500, (path, answer.text)
        harness.assert_clean()
        refused = [
            (process.name, line)
            for process in processes.processes
            for line in process.lines()
            if "AUTHORIZATION" in str(line).upper()
        ]
        assert refused == []
    engine.dispose()


def _page_of(process: Any) -> str | None:
    return next((str(line["url"]) for line in process.lines() if line.get("url")), None)


@pytest.mark.slow(reason="55 consumers connect one after another, which takes minutes")
@pytest.mark.timeout(600)  # 55 consumers connect; a refused one ends after seconds
def test_every_operation_that_a_role_does_not_need_is_refused(settings: Settings, kafka: SecureKafka) -> None:
    names = settings.pipeline_names
    allowed = grants(names)
    _publish_to_all(kafka, names.topics)
    different = []
    for role in KafkaRole:
        client = _Client(kafka, role)
        tried: dict[Operation, Callable[[str], bool]] = {
            Operation.READ: client.can_read,
            Operation.WRITE: client.can_write,
            Operation.ALTER: client.can_add_partitions,
        }
        for topic in names.topics:
            different += [
                (role, operation, topic)
                for operation, attempt in tried.items()
                if attempt(topic) != (Grant(Resource.TOPIC, topic, operation) in allowed[role])
            ]
            assert not client.can_delete(topic), (role, topic)
            assert not client.can_delete_records(topic), (role, topic)
            assert not client.can_configure(topic), (role, topic)
        different += [
            (role, Operation.READ, group)
            for group in names.groups
            if client.can_commit(group, names.requests[0]) != _may_commit(allowed[role], group, names.requests[0])
        ]
        for other in (f"{names.requests[0]}-other", names.requests[0].removesuffix("create")):
            assert not client.can_create(other), (role, other)
        assert not client.can_delete_user(KafkaRole.DASHBOARD.user), role
    assert different == []


def _may_commit(of_role: frozenset[Grant], group: str, topic: str) -> bool:
    return {Grant(Resource.GROUP, group, Operation.READ), Grant(Resource.TOPIC, topic, Operation.READ)} <= of_role


def test_prepare_takes_away_rights_that_a_role_does_not_need(settings: Settings, kafka: SecureKafka) -> None:
    relay = _Client(kafka, KafkaRole.RELAY)
    _publish_to_all(kafka, [settings.topic_created])
    access = bootstrap.kafka_access(settings)
    needed = grants(settings.pipeline_names)
    more = {*needed[KafkaRole.RELAY], Grant(Resource.TOPIC, settings.topic_created, Operation.READ)}
    access.replace_grants({KafkaRole.RELAY: more})
    assert relay.can_read(settings.topic_created)
    bootstrap.prepare(settings)
    assert not relay.can_read(settings.topic_created)
    assert relay.can_write(settings.topic_create)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"kafka_password": "guessed"}, "kafka-authentication"),
        ({"kafka_user": "unknown-user"}, "kafka-authentication"),
        ({"kafka_security": "plaintext", "kafka_user": "", "kafka_ca_bundle": None}, "kafka-unreachable"),
    ],
)
def test_a_client_without_the_right_credentials_is_refused(
    settings: Settings, wrong: dict[str, Any], code: str, caplog: pytest.LogCaptureFixture
) -> None:
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    given |= {"server_timeout_seconds": 3, "kafka_role_passwords": None, **wrong}
    with pytest.raises(Unavailable) as caught:
        bootstrap.prepare(load(**given))
    assert caught.value.code == code
    assert "guessed" not in str(caught.value) + caplog.text


def test_a_missing_password_of_a_role_is_named(settings: Settings, tmp_path: Path) -> None:
    for role in KafkaRole:
        (tmp_path / role.value).write_text("a-password")
    (tmp_path / KafkaRole.SYNC.value).unlink()
    with pytest.raises(InvalidSettings, match=f"kafka_role_passwords: .*{KafkaRole.SYNC.value}"):
        role_passwords(settings.model_copy(update={"kafka_role_passwords": tmp_path}))


def _publish_to_all(kafka: SecureKafka, topics: Any) -> None:
    producer = Producer(kafka.admin_properties())
    for topic in topics:
        producer.produce(topic, b"{}", partition=0)
    assert producer.flush(SECONDS) == 0


class _Client:
    """A client of a role. Each method tells whether the broker allows an operation; other errors are raised."""

    def __init__(self, kafka: SecureKafka, role: KafkaRole) -> None:
        self._properties: dict[str, Any] = {
            **kafka.client_properties(role.user, kafka.password(role)),
            "log_level": 0,
        }
        self._admin = AdminClient(self._properties)
        self._producer = Producer({**self._properties, "message.timeout.ms": SECONDS * 1000})

    def can_write(self, topic: str) -> bool:
        answers: list[KafkaError | None] = []
        self._producer.produce(topic, b"{}", partition=0, on_delivery=lambda error, _message: answers.append(error))
        self._producer.flush(SECONDS)
        [error] = answers
        return _allowed(error)

    def can_read(self, topic: str) -> bool:
        # A client for each topic: one that was refused, or may not use its group, reads nothing assigned later.
        consumer = Consumer({**self._properties, "group.id": "unused", "enable.auto.commit": False})
        try:
            consumer.assign([TopicPartition(topic, 0, 0)])
            while True:
                message = consumer.poll(SECONDS)
                if message is None:  # a refusal is not always reported; the topic has a record
                    return False
                error = message.error()
                if error is None or error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:
                    return _allowed(error)
        finally:
            consumer.close()

    def can_commit(self, group: str, topic: str) -> bool:
        consumer = Consumer({**self._properties, "group.id": group, "enable.auto.commit": False})
        try:
            consumer.commit(offsets=[TopicPartition(topic, 0, 0)], asynchronous=False)
        except KafkaException as raised:
            return _allowed(raised.args[0])
        else:
            return True
        finally:
            consumer.close()

    def can_add_partitions(self, topic: str) -> bool:
        return self._can(lambda: self._admin.create_partitions([NewPartitions(topic, 50)], validate_only=True))

    def can_delete(self, topic: str) -> bool:
        return self._can(lambda: self._admin.delete_topics([topic]))

    def can_create(self, topic: str) -> bool:
        return self._can(lambda: self._admin.create_topics([NewTopic(topic, 1, 1)]))

    def can_delete_records(self, topic: str) -> bool:
        return self._can(lambda: self._admin.delete_records([TopicPartition(topic, 0, 1)]))

    def can_configure(self, topic: str) -> bool:
        entry = ConfigEntry("retention.ms", "1000", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        return self._can(lambda: self._admin.incremental_alter_configs([resource]))

    def can_delete_user(self, user: str) -> bool:
        deletion = UserScramCredentialDeletion(user, ScramMechanism.SCRAM_SHA_512)
        return self._can(lambda: self._admin.alter_user_scram_credentials([deletion]))

    def _can(self, call: Callable[[], Any]) -> bool:
        try:
            for future in call().values():
                future.result(SECONDS)
        except KafkaException as raised:
            return _allowed(raised.args[0])
        return True


def _allowed(error: KafkaError | None) -> bool:
    """Whether an answer is not a refusal. Raises the error if it is another one."""
    if error is None:
        return True
    if error.code() in REFUSED:
        return False
    raise KafkaException(error)
