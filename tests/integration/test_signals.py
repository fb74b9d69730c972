"""Stop signals at the worst moment."""

import subprocess
import sys

# A signal handler interrupts the main thread anywhere. Here that is inside the lock of the event that the handler sets:
# a relay or a sync is about to wait, or has just stopped waiting.
INSIDE_THE_EVENTS_LOCK = """
import os, signal, threading
from filemill.entrypoints.roles import on_stop_signal
stop = threading.Event()
on_stop_signal(stop.set)
with stop._cond:
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000):
        pass
assert stop.wait(5)
print("stopped in order")
"""
TWICE = """
import os, signal, threading, time
from filemill.entrypoints.roles import on_stop_signal
forever = threading.Event()
on_stop_signal(forever.wait)
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGINT)
time.sleep(30)
"""


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=20)


def test_a_stop_signal_inside_the_lock_of_the_event_does_not_deadlock() -> None:
    run = run_script(INSIDE_THE_EVENTS_LOCK)
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("stopped in order\n")


def test_a_second_stop_signal_ends_the_process_at_once() -> None:
    run = run_script(TWICE)
    assert run.returncode == 130, run.stderr
