"""The lab's own stack, isolated by its home, ports and data, so that faults affect nothing else.

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
# The role of a processor whose clock the lab controls.
CLOCK_SKEWED = "skewed"
READY_SECONDS = 60.0
KILL_SECONDS = 10.0
PREPARE_SECONDS = 30.0


class Lab(PipelineSession):
    """A stack that is started on entering the context and removed on leaving it."""

    def __init__(self, parameters: StackParameters | None = None, *, journal: Journal | None = None) -> None:
        """Starts nothing. Raises InvalidSettings for invalid parameters."""
        self.parameters = parameters = parameters or StackParameters()
        self._given_journal = journal
        self.partitions = parameters.partitions
        # The desired number of processes by role; fewer are alive during a restart.
        self.replicas = {
            PROCESSOR: parameters.workers,
            "relay": parameters.relays,
            "sync": parameters.syncs,
            "monitor": parameters.monitors,
        }
        self._closing = contextlib.ExitStack()
        given = load_settings(**{**self.parameters.settings, **self.parameters.for_processors()})
        self._in_containers = given.lab_stack == "compose"

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as closing:
            folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="filemill-lab-")))
            home = folder / "home"
            closing.callback(remove_home, home)
            self.clock = FakeClock(folder / "clock")
            self._s3_environment: dict[str, str] = {}
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

    def workers(self, role: str = PROCESSOR) -> list[str]:
        """The ids of the live processes of a role, sorted."""
        states = self.supervisor.state.workers
        return sorted(state.id for state in states if state.role == role and state.process.process() is not None)

    def servers(self) -> dict[str, str]:
        """The versions of the servers by name; empty in containers, where the images have them."""
        if isinstance(self.supervisor, Supervisor):
            return {server.name: server.version for server in self.supervisor.state.servers}
        return {}

    def scale(self, count: int, role: str = PROCESSOR) -> list[str]:
        """Scale a role; returns the ids after surplus processes have ended. New ones may still be starting."""
        self.replicas[role] = count
        return self.supervisor.scale(role, count)

    def signal(self, worker_id: str, number: int) -> None:
        """Send a signal to a process. It is not restarted after SIGKILL."""
        self.supervisor.kill_worker(worker_id, number, restart=number != signal.SIGKILL)

    def kill(self, worker_id: str) -> None:
        """Send SIGKILL to a process and wait until it has ended. It is not restarted. Raises KeyError, TimeoutError."""
        role = worker_id.rpartition("-")[0]
        self.signal(worker_id, signal.SIGKILL)
        wait_until(lambda: worker_id not in self.workers(role), KILL_SECONDS, f"{worker_id} has ended")

    def wait_for_group(self, seconds: float = READY_SECONDS) -> None:
        """Wait until all partitions are owned, and each processor owns some if there are enough. Raises TimeoutError.

        With a share group, wait for the first worker event.
        """
        wait_until(self._group_is_balanced, seconds, "the processors own all partitions")

    def _group_is_balanced(self) -> bool:
        """Uses the worker events that the sync stores, not Kafka's admin client.

        In librdkafka 2.16, an admin client that described a group without a coordinator can end its process later, or
        hang when it is destroyed (rd_kafka_enq_once_del_source_return, rd_kafka_destroy).
        """
        live = self.workers()
        if not live:
            return True
        with contextlib.suppress(Unavailable), self.engine.connect() as connection:
            owned = owned_partitions(connection, live, SESSION_SECONDS)
            if self.parameters.protocol == SHARE:
                return bool(owned)
            shared = sum(map(bool, owned)) >= min(self.replicas[PROCESSOR], self.partitions)
            return shared and sorted(itertools.chain(*owned)) == list(range(self.partitions))
        return False

    def add_partitions(self, total: int) -> None:
        """Increase the partitions of `file.create`. Raises ValueError, Unavailable."""
        self.admin().add_partitions(self.settings.topic_create, total)
        self.partitions = total

    def inject(self, fault: Fault) -> JournalEntry:
        """Inject a fault, wait for its duration, and undo it; the journal records it."""
        with self.journal.record_interval(FAULT, fault.name, fault.target, fault.code) as entry:
            fault.run(entry)
        return entry

    def _new_stack(
        self, home: Path, prepare: Callable[[dict[str, str | int | float]], None]
    ) -> Supervisor | ComposeStack:
        if self._in_containers:
            return ComposeStack(home, self._specs(), prepare=prepare)
        return Supervisor(home, self._specs(), default_ports=False, prepare=prepare)

    def _prepare(self, servers: dict[str, str | int | float], closing: contextlib.ExitStack) -> None:
        """Prepare the servers before the workers start."""
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
        addresses = (
            self.supervisor.proxy_address() if isinstance(self.supervisor, ComposeStack) else (LOOPBACK, LOOPBACK)
        )
        self.proxy = closing.enter_context(S3Proxy(settings.s3_endpoint, *addresses))
        self._s3_environment["FILEMILL_S3_ENDPOINT"] = self.proxy.url
        super().__init__(settings, engine, self._given_journal)

    def _specs(self) -> list[WorkerSpec]:
        run = [sys.executable, "-m", "filemill", "run"]
        given = {f"FILEMILL_{name.upper()}": str(value) for name, value in self.parameters.settings.items()}
        # A log line per file would cost more than the file.
        log_settings = {"FILEMILL_LOG_LEVEL": "warning", "FILEMILL_LOG_FORMAT": "json"} | given
        processor = {f"FILEMILL_{name.upper()}": value for name, value in self.parameters.for_processors().items()}
        processor |= log_settings
        parameters = self.parameters

        def via_proxy(environment: dict[str, str]) -> ChainMap[str, str]:
            # The address of the proxy is known only after the servers have started.
            return ChainMap(self._s3_environment, environment)

        specs = [
            WorkerSpec(role="relay", argv=[*run, "relay"], env=log_settings, count=parameters.relays),
            WorkerSpec(role="sync", argv=[*run, "sync"], env=log_settings, count=parameters.syncs),
            WorkerSpec(role="monitor", argv=[*run, "monitor"], env=log_settings, count=parameters.monitors),
            WorkerSpec(role=PROCESSOR, argv=[*run, "processor"], env=via_proxy(processor), count=parameters.workers),
            WorkerSpec(
                role=CLOCK_SKEWED,
                argv=[*run, "processor"],
                env=via_proxy(processor | self.clock.environment()),
                count=0,
            ),
        ]
        # A replacement gets a new id, because it is another owner of the partitions.
        return [replace(spec, unique_ids=True) for spec in specs]

    def _end_load(self) -> None:
        with contextlib.suppress(Exception):
            self.load.stop()

    def _stop(self) -> None:
        for server in ("kafka", "postgres", "s3") if isinstance(self.supervisor, Supervisor) else ():
            self.supervisor.server(server).kill()  # its data is removed next, so no clean stop of ten seconds
        self.supervisor.stop()
