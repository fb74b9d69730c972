"""Stop signals of a process."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

import structlog

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
