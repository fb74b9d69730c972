"""A Kafka with TLS, sign-in and access control, as `docker-compose.secure.yaml` configures it."""

import secrets
from collections.abc import Sequence
from typing import ClassVar

import trustme
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from filemill.domain.kafka_access import KafkaRole
from filemill_infra.embedded.ports import LOOPBACK, Port
from filemill_infra.embedded.processes.commands import Command, ServerContext
from filemill_infra.embedded.servers import kafka_config
from filemill_infra.embedded.servers.kafka import Kafka
from filemill_infra.kafka_security import as_pkcs8, plain_login

ADMIN = "filemill-admin"
_PROPERTIES = "secure.properties"


class SecureKafka(Kafka):
    """Clients need TLS and a user; every operation needs a right. Brokers and controllers trust loopback."""

    required_ports: ClassVar[Sequence[Port]] = (Port("broker"), Port("controller"), Port("local"))

    def __init__(self, context: ServerContext) -> None:
        super().__init__(context)
        self.admin_password = secrets.token_urlsafe(16)
        self.ca = context.home / "ca.pem"
        self.role_passwords = context.home / "role-passwords"

    def prepare(self) -> None:
        super().prepare()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca))
        issued = authority.issue_cert(LOOPBACK)
        chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
        (self.folder / "server.pem").write_bytes(as_pkcs8(issued.private_key_pem.bytes()) + chain)
        self.role_passwords.mkdir(exist_ok=True)
        for role in KafkaRole:
            (self.role_passwords / role.value).write_text(secrets.token_urlsafe(16))

    def command(self) -> Command:
        plain = kafka_config.properties("data", self.port, self._ports["controller"])
        client, local = f"CLIENT://{LOOPBACK}:{self.port}", f"LOCAL://{LOOPBACK}:{self._ports['local']}"
        (self.folder / "login").write_text(plain_login(ADMIN, self.admin_password))
        replaced = {
            "listeners": f"{client},{local},CONTROLLER://{LOOPBACK}:{self._ports['controller']}",
            "advertised.listeners": f"{client},{local}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,LOCAL:PLAINTEXT,CLIENT:SASL_SSL",
            "inter.broker.listener.name": "LOCAL",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:ANONYMOUS;User:{ADMIN}",
            "listener.name.client.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
            "listener.name.client.plain.sasl.jaas.config": f"${{dir:{self.folder}:login}}",
            "config.providers": "dir",
            "config.providers.dir.class": "org.apache.kafka.common.config.provider.DirectoryConfigProvider",
            "config.providers.dir.param.allowed.paths": str(self.folder),
            "listener.name.client.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "listener.name.client.ssl.keystore.type": "PEM",
            "listener.name.client.ssl.keystore.location": "server.pem",
        }
        kept = [line for line in plain.splitlines() if line.partition("=")[0] not in replaced]
        lines = [*kept, *(f"{name}={value}" for name, value in replaced.items())]
        (self.folder / _PROPERTIES).write_text("\n".join(lines) + "\n")
        return kafka_config.java(self.folder, self._class_path, "kafka.Kafka", _PROPERTIES, flags=self._flags)

    def probe(self) -> str | None:
        try:
            self.admin().list_topics(timeout=1)
        except KafkaException as error:
            return str(error)
        return None

    def admin(self) -> AdminClient:
        """A client with all rights."""
        return AdminClient({**self.admin_properties(), "log_level": 0})

    def admin_properties(self) -> dict[str, str]:
        """Librdkafka's properties of a client with all rights."""
        return self.client_properties(ADMIN, self.admin_password, "PLAIN")

    def client_properties(self, user: str, password: str, mechanism: str = "SCRAM-SHA-512") -> dict[str, str]:
        """Librdkafka's properties of a client of this user."""
        return {
            "bootstrap.servers": self.address,
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(self.ca),
            "sasl.mechanism": mechanism,
            "sasl.username": user,
            "sasl.password": password,
        }

    def password(self, role: KafkaRole) -> str:
        """The password of a role."""
        return (self.role_passwords / role.value).read_text()

    def settings(self) -> dict[str, str | int]:
        """The settings of an admin, for `filemill prepare`."""
        return {
            "kafka_broker": self.address,
            "kafka_security": "sasl_ssl",
            "kafka_ca_bundle": str(self.ca),
            "kafka_user": ADMIN,
            "kafka_password": self.admin_password,
            "kafka_sasl_mechanism": "PLAIN",
            "kafka_role_passwords": str(self.role_passwords),
        }

    def settings_of(self, role: KafkaRole) -> dict[str, str]:
        """The settings of a role that differ from an admin's."""
        return {
            "kafka_user": role.user,
            "kafka_password": self.password(role),
            "kafka_sasl_mechanism": "SCRAM-SHA-512",
            "kafka_role_passwords": "",
        }
