"""The servers of a stack: started and stopped together, restarted after a crash."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from filemill.runtime.stack_state import ServerState
from filemill_infra.embedded import logs
from filemill_infra.embedded.errors import CancelledError, EmbeddedError
from filemill_infra.embedded.processes.workers import ProcessEvent, RestartBackoff
from filemill_infra.embedded.servers.server import START_SECONDS, STOP_SECONDS, Server


class EmbeddedServers:
    """A group of servers. Safe to use from several threads."""

    def __init__(self, servers: Sequence[Server], report: Callable[[ProcessEvent], None] = lambda _event: None) -> None:
        """`servers` share their context, and with it the event that cancels all starts."""
        self._servers = {server.name: server for server in servers}
        self._cancelled = servers[0].context.cancelled if servers else threading.Event()
        self._report = report
        self._backoff = {server.name: RestartBackoff() for server in servers}
        self._ready_at = dict.fromkeys(self._servers, 0.0)
        self._restarting: set[str] = set()

    def __getitem__(self, name: str) -> Server:
        if name not in self._servers:
            raise KeyError(f"There is no server {name!r}; there are {', '.join(self._servers)}")
        return self._servers[name]

    def __iter__(self) -> Iterator[Server]:
        return iter(self._servers.values())

    def settings(self) -> dict[str, str | int | float]:
        """Their addresses and credentials, as values of `filemill.config.settings.Settings`."""
        return {name: value for server in self for name, value in server.settings().items()}

    def states(self) -> list[ServerState]:
        """The servers for the state file."""
        return [state for server in self if (state := server.state) is not None]

    def start(self, seconds: float = START_SECONDS) -> None:
        """Start all at once. If one fails, or on an interrupt, all are stopped and the cause is raised.

        Raises EmbeddedError.
        """
        with ThreadPoolExecutor(max(len(self._servers), 1), thread_name_prefix="start") as pool:
            started = [pool.submit(self._start, server, seconds) for server in self]
            try:
                for future in started:
                    future.result()
            except BaseException as error:  # noqa: BLE001 - an interrupt also stops all servers
                self._cancelled.set()
                cause = _first_cause([error, *(_failure(future) for future in started)])
                self.stop()
                raise cause from None

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Stop all at once, each by its stop signal; those that have not ended after `seconds` are killed."""
        with ThreadPoolExecutor(max(len(self._servers), 1), thread_name_prefix="stop") as pool:
            for future in [pool.submit(server.stop, seconds) for server in self]:
                future.result()

    def tick(self) -> None:
        """Restart servers that died unexpectedly, on another thread. Called several times a second."""
        for server in self:
            if not server.wanted or server.starting or server.is_alive() or server.name in self._restarting:
                continue
            delay = self._backoff[server.name].next_delay(time.monotonic() - self._ready_at[server.name])
            text = f"{server.name} ended unexpectedly; restart in {delay:g} s"
            self._report(ProcessEvent(kind="died", name=server.name, text=text, log=tuple(logs.tail(server.log_path))))
            self._restarting.add(server.name)
            name = f"restart-{server.name}"
            threading.Thread(target=self._restart, args=(server, delay), name=name, daemon=True).start()

    def trim_logs(self) -> None:
        """Rotate the logs of running servers that are too long."""
        for server in self:
            logs.trim(server.log_path)

    def _start(self, server: Server, seconds: float) -> None:
        server.start(seconds)
        self._ready_at[server.name] = time.monotonic()

    def _restart(self, server: Server, delay: float) -> None:
        try:
            # It may be stopped on purpose meanwhile, and then stays down.
            if not self._cancelled.wait(delay) and server.wanted:
                self._start(server, START_SECONDS)
                self._report(ProcessEvent(kind="restarted", name=server.name, text=f"{server.name} was restarted"))
        except CancelledError:
            pass
        except EmbeddedError as error:
            self._report(ProcessEvent(kind="failing", name=server.name, text=error.problem, log=error.log))
        finally:
            self._restarting.discard(server.name)


def _failure(future: Future[None]) -> BaseException | None:
    try:
        return future.exception()
    except BaseException as error:  # noqa: BLE001 - an interrupt while waiting is a cause as well
        return error


def _first_cause(errors: Sequence[BaseException | None]) -> BaseException:
    """The first error that is not a cancellation; errors of other servers are added to it as notes."""
    real = [error for error in errors if error is not None]
    causes = [error for error in real if not isinstance(error, CancelledError)] or real
    for other in causes[1:]:
        if other is not causes[0]:
            causes[0].add_note(str(other))
    return causes[0]
