"""Apache Kafka in KRaft mode: broker and controller in one JVM."""

import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from filemill_infra.embedded.ports import Port
from filemill_infra.embedded.processes.commands import Command, ServerContext, run_tool
from filemill_infra.embedded.servers import jars, kafka_config
from filemill_infra.embedded.servers.kafka_training import trained_cache
from filemill_infra.embedded.servers.server import Server

_DATA = "data"
_PROBE_SECONDS = 1.0


class Kafka(Server):
    """An Apache Kafka broker."""

    name = "kafka"
    stop_signal = signal.SIGTERM
    required_ports: ClassVar[Sequence[Port]] = (Port("broker", default=29092), Port("controller"))

    def __init__(
        self,
        context: ServerContext,
        *,
        cache: Path | None = None,
        progress: Callable[[jars.DownloadProgress], None] = lambda _progress: None,
    ) -> None:
        """`cache` is the folder of the jars, by default the user's; `progress` is called during their download."""
        super().__init__(context)
        self._cache = cache or jars.usable_cache(context.home)
        self._progress = progress
        self._class_path: list[Path] = []
        self._flags: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """Apache Kafka's version."""
        return jars.KAFKA_VERSION

    @property
    def port(self) -> int:
        """The broker's port."""
        return self._ports["broker"]

    def settings(self) -> dict[str, str | int]:
        """`kafka_broker`."""
        return {"kafka_broker": self.address}

    def prepare(self) -> None:
        """Download the jars and format the data folder; incomplete data is formatted again."""
        self._class_path = jars.installed_jars(self._cache, self._on_progress)
        trained = trained_cache(self._class_path, self.context, self.log_path)
        self._flags = (f"-XX:AOTCache={trained}",) if trained else ()
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)
        kafka_config.make_folder(self.folder)
        if not (self.folder / _DATA).is_dir():
            self._format()

    def command(self) -> Command:
        """The broker. Each start writes the ports, so the advertised address is the real one."""
        written = kafka_config.properties(_DATA, self.port, self._ports["controller"])
        (self.folder / kafka_config.CONFIG).write_text(written)
        return kafka_config.java(self.folder, self._class_path, "kafka.Kafka", kafka_config.CONFIG, flags=self._flags)

    def probe(self) -> str | None:
        """Read the cluster's metadata and check its id."""
        try:
            # librdkafka would write failed connections to stderr, which the probe's result reports as well.
            client = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
            metadata = client.list_topics(timeout=_PROBE_SECONDS)
        except KafkaException as error:
            return f"metadata: {error.args[0].str()}"
        if metadata.cluster_id != self._cluster_id():
            return f"another cluster answers: {metadata.cluster_id}"
        return None

    def _on_progress(self, progress: jars.DownloadProgress) -> None:
        self.raise_if_cancelled()
        self._progress(progress)

    def _format(self) -> None:
        """Format another folder and rename it when it is complete, so that an interrupted format is never used."""
        draft = self.folder / f"{_DATA}.new"
        shutil.rmtree(draft, ignore_errors=True)
        config = self.folder / f"{kafka_config.CONFIG}.new"
        config.write_text(kafka_config.properties(draft.name, broker=1, controller=2))
        command = kafka_config.format_storage(self.folder, self._class_path, config.name, self._flags)
        run_tool(self.context, command, self.log_path, "Formatting Kafka's storage")
        config.unlink()
        draft.rename(self.folder / _DATA)

    def _cluster_id(self) -> str:
        lines = (self.folder / _DATA / "meta.properties").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line).get("cluster.id", "")
