"""The lab's own stack: isolated from any other by its home, its ports and its data, and there to be broken.

with Lab(StackParameters(workers=3, processing_seconds=1)) as lab:
lab.load.start(lambda load: load.open_loop([LoadStep(30, 100)]))
lab.inject(faults.kill_worker(lab))
lab.load.wait()
lab.drain()
lab.check_invariants().require()
"""

import contextlib
import itertools
import os
import signal
import sys
import tempfile
from collections import ChainMap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from filemill.config.settings import load as load_settings
from filemill.entrypoints import bootstrap
from filemill.errors import Unavailable
from filemill.lab import status_regressions
from filemill.lab.clock import FakeClock
from filemill.lab.compose_stack import ComposeStack
from filemill.lab.parameters import StackParameters
from filemill.lab.s3_proxy import S3Proxy
from filemill.lab.session import SESSION_SECONDS, SHARE, PipelineSession, wait_until
from filemill.queries.verification import owned_partitions
from filemill.runtime.fault import Fault
from filemill.runtime.journal import FAULT, Journal, JournalEntry
from filemill_infra.embedded.home import remove_home
from filemill_infra.embedded.ports import LOOPBACK
from filemill_infra.embedded.processes.workers import WorkerSpec
from filemill_infra.embedded.supervisor import Supervisor

PROCESSOR = "processor"
# A processor whose clock the lab can move.
CLOCK_SKEWED = "jumper"
READY_SECONDS = 60.0
KILL_SECONDS = 10.0
PREPARE_SECONDS = 30.0


class Lab(PipelineSession):
    """A stack from `__enter__` to `__exit__`, after which nothing of it is left but the results."""

    def __init__(self, parameters: StackParameters | None = None, *, journal: Journal | None = None) -> None:
        """Nothing is started. Raises InvalidSettings, for parameters that no process would take."""
        self.parameters = parameters or StackParameters()
        self._given_journal = journal
        asked = self.parameters
        self.partitions = asked.partitions
        # How many of each role there shall be; fewer live while one restarts.
        self.replicas = {
            PROCESSOR: asked.workers,
            "relay": asked.relays,
            "sync": asked.syncs,
            "monitor": asked.monitors,
        }
        self._closing = contextlib.ExitStack()
        given = load_settings(**{**self.parameters.settings, **self.parameters.for_processors()})
        self._composed = given.lab_stack == "compose"

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as closing:
            folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="filemill-lab-")))
            home = folder / "home"
            closing.callback(remove_home, home)
            self.clock = FakeClock(folder / "clock")
            self._way_to_s3: dict[str, str] = {}
            self.supervisor = self._new_stack(home, lambda servers: self._prepare(servers, closing))
            closing.callback(self._stop)
            self.supervisor.start()
            closing.callback(self._end_load)
            self.wait_for_group()
            self._closing = closing.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    # --- what runs

    def workers(self, role: str = PROCESSOR) -> list[str]:
        """The ids of the living processes of a role, in their order."""
        states = self.supervisor.state.workers
        return sorted(state.id for state in states if state.role == role and state.process.process() is not None)

    def servers(self) -> dict[str, str]:
        """The servers' versions, by their names; empty where containers are the servers: their images say it."""
        if isinstance(self.supervisor, Supervisor):
            return {server.name: server.version for server in self.supervisor.state.servers}
        return {}

    def scale(self, count: int, role: str = PROCESSOR) -> list[str]:
        """Have so many; returns their ids, once surplus ones have ended. New ones may not work yet."""
        self.replicas[role] = count
        return self.supervisor.scale(role, count)

    def signal(self, worker_id: str, number: int) -> None:
        """Send a process a signal; if it dies of it, it is not started again."""
        self.supervisor.kill_worker(worker_id, number, restart=number != signal.SIGKILL)

    def kill(self, worker_id: str) -> None:
        """SIGKILL one process, and wait until it is gone; it stays dead. Raises KeyError, TimeoutError."""
        role = worker_id.rpartition("-")[0]
        self.signal(worker_id, signal.SIGKILL)
        wait_until(lambda: worker_id not in self.workers(role), KILL_SECONDS, f"{worker_id} is gone")

    def wait_for_group(self, seconds: float = READY_SECONDS) -> None:
        """Until all partitions are owned, and each processor has some, as far as they go. Raises TimeoutError.

        Of a share group: until a member has been heard.
        """
        wait_until(self._group_is_whole, seconds, "the processors own all partitions")

    def _group_is_whole(self) -> bool:
        """By what the workers say, which the sync stores.

        Not by Kafka's admin client: one that asked for a group without a coordinator can end its process later, or hang
        in its own end (librdkafka 2.16, rd_kafka_enq_once_del_source_return and rd_kafka_destroy).
        """
        living = self.workers()
        if not living:
            return True
        with contextlib.suppress(Unavailable), self.engine.connect() as connection:
            owned = owned_partitions(connection, living, SESSION_SECONDS)
            if self.parameters.protocol == SHARE:
                return bool(owned)
            shared = sum(map(bool, owned)) >= min(self.replicas[PROCESSOR], self.partitions)
            return shared and sorted(itertools.chain(*owned)) == list(range(self.partitions))
        return False

    def add_partitions(self, total: int) -> None:
        """Raise the partitions of `file.create`. Raises ValueError, Unavailable."""
        self.admin().add_partitions(self.settings.topic_create, total)
        self.partitions = total

    def inject(self, fault: Fault) -> JournalEntry:
        """Let a fault begin, last and be undone, on record in the journal."""
        with self.journal.record_interval(FAULT, fault.name, fault.target, fault.code) as entry:
            fault.run(entry)
        return entry

    # --- inside

    def _new_stack(
        self, home: Path, prepare: Callable[[dict[str, str | int | float]], None]
    ) -> Supervisor | ComposeStack:
        if self._composed:
            return ComposeStack(home, self._specs(), prepare=prepare)
        return Supervisor(home, self._specs(), default_ports=False, prepare=prepare)

    def _prepare(self, servers: dict[str, str | int | float], closing: contextlib.ExitStack) -> None:
        """What comes between the servers and the workers."""
        settings = load_settings(
            **{
                **servers,
                **self.parameters.settings,
                **self.parameters.for_processors(),
                "home": self.supervisor.home,
                "topic_partitions": self.parameters.partitions,
                "worker_id": f"lab-{os.getpid()}",
            }
        )
        bootstrap.prepare(settings, timeout_seconds=PREPARE_SECONDS)
        engine = bootstrap.create_engine(settings.as_owner(), "lab")
        closing.callback(engine.dispose)
        status_regressions.install_trigger(engine)
        door = self.supervisor.proxy_address() if isinstance(self.supervisor, ComposeStack) else (LOOPBACK, LOOPBACK)
        self.proxy = closing.enter_context(S3Proxy(settings.s3_endpoint, *door))
        self._way_to_s3["FILEMILL_S3_ENDPOINT"] = self.proxy.url
        super().__init__(settings, engine, self._given_journal)

    def _specs(self) -> list[WorkerSpec]:
        run = [sys.executable, "-m", "filemill", "run"]
        given = {f"FILEMILL_{name.upper()}": str(value) for name, value in self.parameters.settings.items()}
        # A line for each file would cost more than the file.
        quiet = {"FILEMILL_LOG_LEVEL": "warning", "FILEMILL_LOG_FORMAT": "json"} | given
        processor = {f"FILEMILL_{name.upper()}": value for name, value in self.parameters.for_processors().items()}
        processor |= quiet
        asked = self.parameters

        def through(environment: dict[str, str]) -> ChainMap[str, str]:
            return ChainMap(self._way_to_s3, environment)  # the proxy's address is known once the servers are

        specs = [
            WorkerSpec(role="relay", argv=[*run, "relay"], env=quiet, count=asked.relays),
            WorkerSpec(role="sync", argv=[*run, "sync"], env=quiet, count=asked.syncs),
            WorkerSpec(role="monitor", argv=[*run, "monitor"], env=quiet, count=asked.monitors),
            WorkerSpec(role=PROCESSOR, argv=[*run, "processor"], env=through(processor), count=asked.workers),
            WorkerSpec(
                role=CLOCK_SKEWED, argv=[*run, "processor"], env=through(processor | self.clock.environment()), count=0
            ),
        ]
        # One that takes the place of a dead one is another owner of its partitions.
        return [replace(spec, unique_ids=True) for spec in specs]

    def _end_load(self) -> None:
        with contextlib.suppress(Exception):
            self.load.stop()

    def _stop(self) -> None:
        for server in ("kafka", "postgres", "s3") if isinstance(self.supervisor, Supervisor) else ():
            self.supervisor.server(server).kill()  # its data goes in a moment: no orderly stop of ten seconds
        self.supervisor.stop()
