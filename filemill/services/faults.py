"""Faults that a page injects into the embedded stack it belongs to: what can be broken, how, and what became of it.

The stack's supervisor does and undoes them, and journals them; the audit has who asked, and their end once it is known.
"""

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from filemill.adapters.postgres.operations import record, tell_refused
from filemill.adapters.postgres.tables import Operation
from filemill.errors import Unavailable
from filemill.runtime.journal import JournalEntry, read_entries
from filemill.runtime.stack_state import FAULTS_FILE, StackState
from filemill.runtime.supervisor_client import FaultKind, CommandRejected, SupervisorCommand, send

FAULT = "fault"
SHOWN = 50
_SERVERS = {"kafka": "Kafka", "postgres": "PostgreSQL", "s3": "S3"}
_DOES = {
    "killed": "SIGKILL, as a power cut would; started again when the time is over",
    "stopped": "SIGSTOP: connections stay open and nothing answers; goes on when the time is over",
}
_WORKER_KILLED = "SIGKILL amid its work; started again at once"
_ELSEWHERE = "This page belongs to no embedded stack: break it where it was started"


@dataclass(frozen=True)
class Offer:
    """A fault that could be injected. `why_not` says why it cannot be now."""

    kind: FaultKind
    target: str
    label: str
    does: str
    lasts: bool
    why_not: str = ""

    @property
    def key(self) -> str:
        """Its name in a URL or a table."""
        return f"{self.kind}:{self.target}"


def offers(stack: StackState | None, faults: list[JournalEntry]) -> list[Offer]:
    """All that a page can do to a stack: the servers, then the workers but the page itself."""
    busy = {entry.target for entry in faults if entry.ended is None}
    found = []
    for name, label in _SERVERS.items():
        for kind, does in _DOES.items():
            why_not = _ELSEWHERE if stack is None else "A fault of it lasts still" if name in busy else ""
            found.append(Offer(_kind(kind), name, label, does, lasts=True, why_not=why_not))
    for worker in stack.workers if stack is not None else ():
        if worker.role == "dashboard":
            continue
        why_not = "A fault of it lasts still" if worker.id in busy else ""
        found.append(Offer("killed", worker.id, worker.id, _WORKER_KILLED, lasts=False, why_not=why_not))
        found.append(Offer("stopped", worker.id, worker.id, _DOES["stopped"], lasts=True, why_not=why_not))
    return found


def inject(engine: sa.Engine, stack: StackState, offer: Offer, seconds: float, actor: str) -> None:
    """Put it on record, then have the supervisor do it. Raises OrderRefused; Unavailable: nothing was done.

    On record first: with PostgreSQL killed it would be too late. What cannot be done goes to the log only.
    """
    now = {one.key: one for one in offers(stack, journal_of(stack))}
    why_not = now[offer.key].why_not if offer.key in now else f"{offer.target} is no part of this stack"
    if why_not:
        tell_refused(actor, FAULT, why_not, target=offer.target)
        raise CommandRejected(why_not)
    key = uuid.uuid4().hex[:12]
    detail = {"fault": offer.kind, "target": offer.target, "seconds": seconds if offer.lasts else 0, "key": key}
    with engine.begin() as connection:
        record(connection, actor, FAULT, detail)
    order = SupervisorCommand("fault", fault=offer.kind, target=offer.target, seconds=seconds, key=key)
    try:
        send(stack, order)
    except (CommandRejected, Unavailable) as refused:
        complete(engine, key, {"refused": str(refused)})
        raise


def complete(engine: sa.Engine, key: str, more: dict[str, Any]) -> None:
    """Add to a fault's record, once. Raises Unavailable."""
    detail = Operation.detail
    ours = sa.and_(Operation.action == FAULT, detail["key"].astext == key, ~detail.has_key("ended"))
    with engine.begin() as connection:
        connection.execute(sa.update(Operation).where(ours).values(detail=detail.concat(more)))


def journal_of(stack: StackState) -> list[JournalEntry]:
    """The faults of the stack's home, the last ones, newest first."""
    return read_entries(Path(stack.home) / FAULTS_FILE)[-SHOWN:][::-1]


def as_json_lines(entries: list[JournalEntry]) -> bytes:
    """A journal to take along, oldest first: one document an entry."""
    return b"".join(msgspec.json.encode(entry) + b"\n" for entry in reversed(entries))


class EndNotes:
    """Puts the ends of faults on record as the journal tells them. Not for several threads."""

    def __init__(self) -> None:
        self._noted: set[str] = set()

    def note(self, engine: sa.Engine, entries: list[JournalEntry]) -> None:
        """Note those that are new. Raises Unavailable; the next call goes on."""
        for entry in entries:
            key = str(entry.detail.get("key", ""))
            if key and entry.ended is not None and key not in self._noted:
                error = {"error": entry.detail["error"]} if "error" in entry.detail else {}
                complete(engine, key, {"ended": entry.ended, **error})
                self._noted.add(key)


def _kind(name: str) -> FaultKind:
    return "killed" if name == "killed" else "stopped"
