"""Users of Kafka (SCRAM) and their access control lists."""

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclBindingFilter, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.admin._scram import (
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)

from filemill.adapters.kafka.client import client_config, kafka_errors, new_client
from filemill.config.settings import Settings
from filemill.domain.kafka_access import Grant, KafkaRole, Resource

SCRAM_ITERATIONS = 8192
_RESOURCES = {Resource.TOPIC: ResourceType.TOPIC, Resource.GROUP: ResourceType.GROUP}
_ANY_HOST = "*"


class KafkaAccess:
    """Creates users and replaces their ACLs. Needs the right to alter the cluster. Raises Unavailable."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._timeout = settings.server_timeout_seconds
        self._client = new_client(AdminClient, client_config(settings, "admin"))

    def set_passwords(self, passwords: Mapping[KafkaRole, str]) -> None:
        """Create the users of these roles, or change their passwords."""
        mechanism = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, SCRAM_ITERATIONS)
        changes: list[UserScramCredentialAlteration] = [
            UserScramCredentialUpsertion(role.user, mechanism, password.encode())
            for role, password in passwords.items()
        ]
        self._wait(self._client.alter_user_scram_credentials(changes, request_timeout=self._timeout).values())

    def replace_grants(self, grants: Mapping[KafkaRole, Collection[Grant]]) -> None:
        """Give each role these grants, and take every other one from its user."""
        for role, wanted in grants.items():
            bindings = {_binding(role, grant) for grant in wanted}
            present = self._bindings(role)
            # New ones first: the parts of a running deployment must not lose access in between.
            if new := list(bindings - present):
                self._wait(self._client.create_acls(new, request_timeout=self._timeout).values())
            if outdated := [_exactly(binding) for binding in present - bindings]:
                self._wait(self._client.delete_acls(outdated, request_timeout=self._timeout).values())

    def _bindings(self, role: KafkaRole) -> set[AclBinding]:
        everything = AclBindingFilter(  # None: any name, any host
            ResourceType.ANY,
            None,  # type: ignore[arg-type]
            ResourcePatternType.ANY,
            _principal(role),
            None,  # type: ignore[arg-type]
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        with kafka_errors(self._settings, self._client):
            return set(self._client.describe_acls(everything, request_timeout=self._timeout).result())

    def _wait(self, futures: Iterable[Future[Any]]) -> None:
        with kafka_errors(self._settings, self._client):
            for future in futures:
                future.result()


def _principal(role: KafkaRole) -> str:
    return f"User:{role.user}"


def _binding(role: KafkaRole, grant: Grant) -> AclBinding:
    return AclBinding(
        _RESOURCES[grant.resource],
        grant.name,
        ResourcePatternType.LITERAL,
        _principal(role),
        _ANY_HOST,
        AclOperation[grant.operation.name],
        AclPermissionType.ALLOW,
    )


def _exactly(binding: AclBinding) -> AclBindingFilter:
    return AclBindingFilter(
        binding.restype,
        binding.name,
        binding.resource_pattern_type,
        binding.principal,
        binding.host,
        binding.operation,
        binding.permission_type,
    )
