"""Injecting faults into the embedded stack that a page belongs to.

The stack's supervisor injects and ends them, and writes them to its journal. The audit record has the
principal, and the end of the fault once it is known.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
import structlog

from filemill.adapters.postgres.audit import FAULT, fault_without_end
from filemill.domain.permissions import Permission, Principal, local_admin
from filemill.errors import Unavailable
from filemill.runtime.journal import JournalEntry, read_entries
from filemill.runtime.stack_state import FAULTS_FILE, StackState
from filemill.runtime.supervisor_client import (
    CommandRejected,
    CommandRejection,
    FaultKind,
    OutcomeUnknown,
    SupervisorCommand,
    send,
)
from filemill.services.access import authorize
from filemill.services.audit import log_refusal, record

log = structlog.get_logger("faults")

SHOWN = 50
FAULT_END = "fault.end"
# Its journal says when faults ended.
SUPERVISOR = local_admin("supervisor")
_SERVERS = {"kafka": "Kafka", "postgres": "PostgreSQL", "s3": "S3"}
_EFFECTS: dict[FaultKind, str] = {
    "killed": "SIGKILL, like a power failure; restarted when the time is over",
    "stopped": "SIGSTOP: connections stay open but nothing answers; SIGCONT when the time is over",
}
_WORKER_KILLED = "SIGKILL while it works; restarted at once"


_REASONS = {
    CommandRejection.NOT_ALLOWED: (
        "This page does not belong to an embedded stack: inject the fault where the servers run"
    ),
    CommandRejection.FAULT_ACTIVE: "A fault is still active on this target",
}


@dataclass(frozen=True)
class FaultOption:
    """A fault that a page offers. `refusal`: why it cannot be injected now; None: it can."""

    kind: FaultKind
    target: str
    label: str
    effect: str
    has_duration: bool
    refusal: CommandRejection | None = None

    @property
    def key(self) -> str:
        """Its name in a URL or a table."""
        return f"{self.kind}:{self.target}"

    @property
    def reason(self) -> str:
        """The refusal as a sentence; empty if there is none."""
        return "" if self.refusal is None else _REASONS[self.refusal]


def fault_options(stack: StackState | None, entries: list[JournalEntry]) -> list[FaultOption]:
    """All faults that a page offers: those of the servers, then those of the workers without the page itself."""

    def refusal(target: str) -> CommandRejection | None:
        if stack is None:
            return CommandRejection.NOT_ALLOWED
        return CommandRejection.FAULT_ACTIVE if active_fault(stack, entries, target) is not None else None

    found = [
        FaultOption(kind, name, label, effect, has_duration=True, refusal=refusal(name))
        for name, label in _SERVERS.items()
        for kind, effect in _EFFECTS.items()
    ]
    for worker in stack.workers if stack is not None else ():
        if worker.role == "dashboard":
            continue
        name, why = worker.id, refusal(worker.id)
        found.append(FaultOption("killed", name, name, _WORKER_KILLED, has_duration=False, refusal=why))
        found.append(FaultOption("stopped", name, name, _EFFECTS["stopped"], has_duration=True, refusal=why))
    return found


def inject(engine: sa.Engine, stack: StackState, option: FaultOption, seconds: float, principal: Principal) -> None:
    """Record the fault, then send it to the supervisor. Raises CommandRejected, Unavailable: it was not injected.

    Raises OutcomeUnknown: it may have been injected. Raises Forbidden. The record comes first: after PostgreSQL was
    killed nothing could be recorded. A rejection before that is only logged.
    """
    authorize(engine, principal, Permission.INJECT_FAULTS, fault=option.kind, target=option.target)
    now = {one.key: one for one in fault_options(stack, journal_of(stack))}
    if option.key not in now:
        _refuse(principal, option, CommandRejection.UNKNOWN_TARGET, f"{option.target} is not part of this stack")
    elif (refusal := now[option.key].refusal) is not None:
        _refuse(principal, option, refusal, now[option.key].reason)
    key = uuid.uuid4().hex[:12]
    duration = seconds if option.has_duration else 0
    detail = {"fault": option.kind, "target": option.target, "seconds": duration, "key": key}
    with engine.begin() as connection:
        record(connection, principal, FAULT, detail)
    command = SupervisorCommand("fault", fault=option.kind, target=option.target, seconds=seconds, key=key)
    try:
        send(stack, command)
    except OutcomeUnknown:
        raise  # the journal knows
    except (CommandRejected, Unavailable) as error:
        _complete(engine, key, principal, {"refused": str(error)})
        raise


def end_fault(engine: sa.Engine, stack: StackState, target: str, principal: Principal) -> None:
    """End the fault on a server or worker now. Raises CommandRejected if there is none, Forbidden, Unavailable.

    `FaultEndRecorder` records when it ended. Who ended it is recorded here, or only logged, because PostgreSQL may be
    the server that is down.
    """
    authorize(engine, principal, Permission.INJECT_FAULTS, fault="end", target=target)
    send(stack, SupervisorCommand("end-fault", target=target))
    log.info("A fault was ended before its time", target=target, principal=principal.name)
    try:
        with engine.begin() as connection:
            record(connection, principal, FAULT_END, {"target": target})
    except Unavailable as error:
        log.warning("Cannot record who ended a fault", target=target, principal=principal.name, error=str(error))


def active_fault(stack: StackState | None, entries: Sequence[JournalEntry], target: str) -> JournalEntry | None:
    """The fault of this stack that lasts on a target now. `entries`: newest first."""
    return next((entry for entry in entries if entry.target == target and is_active(stack, entry)), None)


def is_active(stack: StackState | None, entry: JournalEntry) -> bool:
    """Whether a fault lasts now. One that has no end was interrupted if the stack that injected it has ended."""
    return stack is not None and entry.ended is None and entry.began >= stack.supervisor.created


def _refuse(principal: Principal, option: FaultOption, code: CommandRejection, reason: str) -> None:
    log_refusal(principal, FAULT, reason, target=option.target)
    raise CommandRejected(reason, code)


def _complete(engine: sa.Engine, key: str, principal: Principal, more: Mapping[str, Any]) -> None:
    with engine.begin() as connection:
        operation = fault_without_end(connection, key)
        if operation is not None:
            record(connection, principal, FAULT, more, follows=operation)


def journal_of(stack: StackState) -> list[JournalEntry]:
    """The latest faults of the stack's home, newest first."""
    return read_entries(Path(stack.home) / FAULTS_FILE)[-SHOWN:][::-1]


def as_json_lines(entries: list[JournalEntry]) -> bytes:
    """A journal as JSON lines for a download, oldest first. `entries`: newest first."""
    return b"".join(msgspec.json.encode(entry) + b"\n" for entry in reversed(entries))


class FaultEndRecorder:
    """Adds the ends of faults, which the journal tells, to their audit records. One thread."""

    def __init__(self) -> None:
        self._recorded: set[str] = set()

    def record(self, engine: sa.Engine, entries: list[JournalEntry]) -> None:
        """Record the ends that are new. Raises Unavailable; the next call continues."""
        for entry in entries:
            key = str(entry.detail.get("key", ""))
            if key and entry.ended is not None and key not in self._recorded:
                error = {"error": entry.detail["error"]} if "error" in entry.detail else {}
                _complete(engine, key, SUPERVISOR, {"ended": entry.ended, **error})
                self._recorded.add(key)
