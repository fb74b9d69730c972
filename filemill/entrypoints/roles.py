"""Running one process of the pipeline until it is told to stop: what `filemill run ROLE` does.

Each role imports what it needs when it runs: a processor starts without a database driver, a relay without a page.
"""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

import structlog

from filemill.config.settings import Settings
from filemill.runtime.liveness import BeatingStop, Pulse

log = structlog.get_logger("process")

FORCED_EXIT = 130


def on_stop_signal(stop: Callable[[], None]) -> None:
    """SIGTERM and SIGINT call `stop`, on a thread of its own; a second one ends the process at once, without goodwill.

    Not in the handler: that runs on the main thread wherever it is, maybe inside the lock of the event which `stop`
    sets, or of the log. A write to a pipe takes no lock.
    """
    told, teller = os.pipe()
    asked = False

    def wait() -> None:
        (number,) = os.read(told, 1)
        log.info("Stopping", signal=signal.Signals(number).name)
        stop()

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            os._exit(FORCED_EXIT)
        asked = True
        os.write(teller, bytes([number]))

    threading.Thread(target=wait, name="stop", daemon=True).start()
    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


def run_relay(settings: Settings) -> None:
    """The outbox relay."""
    from filemill.entrypoints import bootstrap  # noqa: PLC0415

    engine = bootstrap.create_engine(settings, f"relay {settings.worker_id}")
    relay, stop = bootstrap.relay(settings, engine), BeatingStop(Pulse(settings.pulse_file, "relay"))

    def leave() -> None:
        stop.set()
        relay.wake()

    on_stop_signal(leave)
    relay.run(stop)


def run_sync(settings: Settings) -> None:
    """The status sync, and beside it the hashes of foreign results."""
    from filemill.entrypoints import bootstrap  # noqa: PLC0415

    engine = bootstrap.create_engine(settings, f"sync {settings.worker_id}")
    stop, stop_beside = BeatingStop(Pulse(settings.pulse_file, "sync")), threading.Event()

    def leave() -> None:
        stop.set()
        stop_beside.set()

    on_stop_signal(leave)
    bootstrap.run_beside(bootstrap.hash_filler(settings, engine), stop_beside)
    bootstrap.sync(settings, engine).run(stop)


def run_monitor(settings: Settings) -> None:
    """The group monitor."""
    from filemill.entrypoints import bootstrap  # noqa: PLC0415

    engine = bootstrap.create_engine(settings, f"monitor {settings.worker_id}")
    stop = BeatingStop(Pulse(settings.pulse_file, "monitor"))
    on_stop_signal(stop.set)
    bootstrap.monitor(settings, engine).run(stop)


def run_processor(settings: Settings) -> None:
    """A file processor. Raises retry.Unavailable where its Kafka client gave up for good: start a new process."""
    from filemill.entrypoints.processor import Processor  # noqa: PLC0415

    pulse = Pulse(settings.pulse_file, "processor")
    processor = Processor(settings, pulse.beat)
    on_stop_signal(processor.stop)
    log.info(
        "File processor started",
        broker=settings.kafka_broker,
        group=settings.group_id,
        protocol=settings.group_protocol,
        concurrency=settings.concurrency,
        processing_seconds=settings.processing_seconds,
    )
    processor.run()
    log.info("File processor stopped")


def run_dashboard(settings: Settings) -> None:
    """The page, REST, and the relay that they host."""
    from filemill_dashboard.server import serve  # noqa: PLC0415 - Streamlit takes a second to import

    pulse = Pulse(settings.pulse_file, "dashboard")
    serve(settings, lambda url: pulse.answers_at(f"{url}/healthz"))


ROLES: dict[str, Callable[[Settings], None]] = {
    "relay": run_relay,
    "processor": run_processor,
    "sync": run_sync,
    "monitor": run_monitor,
    "dashboard": run_dashboard,
}
