"""Data of the Set-up page: versions, topics, effective settings. Secrets never leave this module."""

import platform
from dataclasses import dataclass
from typing import Literal

import streamlit
from pydantic import SecretStr

import filemill
from filemill.adapters.kafka.admin import all_topics
from filemill.adapters.postgres.server import server_version
from filemill.config.settings import PREFIX, Settings
from filemill.domain.origins import redact_passwords
from filemill.errors import Unavailable
from filemill_dashboard.state.services import Services

HIDDEN = "••••••"


@dataclass(frozen=True)
class TopicView:
    """A topic that filemill uses. `partitions` None: it is missing. `timestamps_from` None: unknown."""

    name: str
    partitions: int | None
    timestamps_from: Literal["broker", "producers"] | None


@dataclass(frozen=True)
class SettingView:
    """An effective setting, as text. `is_set`: it is not the default."""

    name: str
    value: str
    description: str
    is_set: bool


def postgres_version(services: Services) -> str:
    """The server's version. Raises Unavailable."""
    with services.connect() as connection:
        return server_version(connection)


def topics(services: Services) -> list[TopicView]:
    """The topics that filemill uses, their partitions, and who sets their records' timestamps. Raises Unavailable."""
    existing = services.kafka.topic_partitions()
    try:
        by_producers: list[str] | None = services.kafka.topics_with_producer_timestamps()
    except Unavailable:  # a broker may allow reading topics, but not their configuration
        by_producers = None
    return [
        TopicView(
            name,
            existing.get(name),
            None if by_producers is None or name not in existing else "producers" if name in by_producers else "broker",
        )
        for name in all_topics(services.settings)
    ]


def process_versions() -> dict[str, str]:
    """The versions of this process and its runtime."""
    return {
        "filemill": filemill.__version__,
        "Python": platform.python_version(),
        "Streamlit": streamlit.__version__,
    }


def effective_settings(settings: Settings) -> list[SettingView]:
    """All settings. Secrets, and properties that may be secret, are hidden."""
    shown = []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        given = name in settings.model_fields_set and value != field.default
        shown.append(SettingView(f"{PREFIX}{name.upper()}", _text(value), field.description or "", given))
    return shown


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return HIDDEN if value.get_secret_value() else "(empty)"
    if isinstance(value, dict):
        return ", ".join(f"{name}={HIDDEN}" for name in value) or "(none)"
    return redact_passwords(str(value)) if value != "" else "(empty)"
