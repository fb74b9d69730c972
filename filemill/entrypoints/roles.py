"""`filemill run ROLE`: runs one process of the pipeline until it is told to stop.

Each role imports what it needs when it runs: a processor starts without a database driver, a relay without a page.
"""

import threading
from collections.abc import Callable

import structlog

from filemill.config.settings import Settings
from filemill.runtime.liveness import Liveness
from filemill.runtime.signals import on_stop_signal

log = structlog.get_logger("process")


def run_relay(settings: Settings) -> None:
    """The outbox relay."""
    from filemill.entrypoints import bootstrap  # noqa: PLC0415

    engine = bootstrap.create_engine(settings, f"relay {settings.worker_id}")
    relay, stop = bootstrap.relay(settings, engine), threading.Event()

    def request_stop() -> None:
        stop.set()
        relay.wake()

    on_stop_signal(request_stop)
    relay.run(stop, Liveness(settings.pulse_file, "relay").touch)


def run_sync(settings: Settings) -> None:
    """The status sync, and the hashes of foreign results on another thread."""
    from filemill.entrypoints import bootstrap  # noqa: PLC0415

    engine = bootstrap.create_engine(settings, f"sync {settings.worker_id}")
    stop = threading.Event()
    on_stop_signal(stop.set)
    bootstrap.run_beside(bootstrap.hash_filler(settings, engine), stop)
    bootstrap.sync(settings, engine).run(stop, Liveness(settings.pulse_file, "sync").touch)


def run_monitor(settings: Settings) -> None:
    """The group monitor."""
    from filemill.entrypoints import bootstrap  # noqa: PLC0415

    engine = bootstrap.create_engine(settings, f"monitor {settings.worker_id}")
    stop = threading.Event()
    on_stop_signal(stop.set)
    bootstrap.monitor(settings, engine).run(stop, Liveness(settings.pulse_file, "monitor").touch)


def run_processor(settings: Settings) -> None:
    """A file processor. Raises Unavailable if its Kafka client stopped for good: start a new process."""
    from filemill.entrypoints.processor import Processor  # noqa: PLC0415

    processor = Processor(settings, on_cycle=Liveness(settings.pulse_file, "processor").touch)
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
    """The page, REST, and the outbox relay that this process hosts."""
    from filemill_dashboard.server import serve  # noqa: PLC0415 - Streamlit takes a second to import

    liveness = Liveness(settings.pulse_file, "dashboard")
    serve(settings, lambda url: liveness.set_url(f"{url}/healthz"))


ROLES: dict[str, Callable[[Settings], None]] = {
    "relay": run_relay,
    "processor": run_processor,
    "sync": run_sync,
    "monitor": run_monitor,
    "dashboard": run_dashboard,
}
