"""Handling of stop signals."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

import structlog

log = structlog.get_logger("process")


FORCED_EXIT = 130


def on_stop_signal(stop: Callable[[], None]) -> None:
    """Call `stop` on SIGTERM or SIGINT, on another thread; a second signal ends the process at once.

    The handler itself runs on the main thread, which may hold the lock of the event that `stop` sets, or of the log. It
    only writes to a pipe, which needs no lock.
    """
    reader, writer = os.pipe()
    signalled = False

    def wait() -> None:
        (number,) = os.read(reader, 1)
        log.info("Stopping", signal=signal.Signals(number).name)
        stop()

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal signalled
        if signalled:
            os._exit(FORCED_EXIT)
        signalled = True
        os.write(writer, bytes([number]))

    threading.Thread(target=wait, name="stop", daemon=True).start()
    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
