"""One clock for all that is measured: the broker's."""

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from filemill.adapters.kafka import client_config, kafka_errors
from filemill.adapters.kafka_admin import all_topics
from filemill.settings import Settings


def stamp_by_the_broker(settings: Settings) -> None:
    """Have the broker date all records of the pipeline's topics, whatever a worker's clock says.

    Results and assignments are then of the same clock as commits. Raises retry.Unavailable.
    """
    admin = AdminClient(client_config(settings, "admin"))
    entry = ConfigEntry("message.timestamp.type", "LogAppendTime", incremental_operation=AlterConfigOpType.SET)
    resources = [
        ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry]) for topic in all_topics(settings)
    ]
    with kafka_errors(settings):
        for future in admin.incremental_alter_configs(resources).values():
            future.result()
