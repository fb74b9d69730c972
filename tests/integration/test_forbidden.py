"""Use cases refuse a principal whose role does not allow them: nothing changes, and the attempt is in the audit log."""

from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.tables import File, Operation
from filemill.config.settings import Settings, load
from filemill.domain.file_actions import PERMISSIONS, FileAction
from filemill.domain.files import NewFile
from filemill.domain.permissions import RULES, Permission, Principal, RequestSource, Role, local_admin
from filemill.domain.worker_commands import WorkerCommandKind
from filemill.entrypoints import bootstrap
from filemill.errors import Forbidden
from filemill.queries.history import stack_audit_entries
from filemill.runtime.stack_state import ProcessRef, StackState
from filemill.runtime.supervisor_client import SupervisorCommand
from filemill.services import access, dead_letters, faults, partitions, stack_workers
from filemill.services.accounts import Accounts
from filemill.services.offset_reset import OffsetReset, ResetPlan, ResetTarget
from filemill.services.orphans import Orphans
from filemill.services.submissions import Submissions
from filemill.services.tokens import Tokens

# No use case may touch these before it has asked.
UNTOUCHED: Any = SimpleNamespace()
FILE = NewFile("A file", "")
STACK = StackState(
    home="/nowhere",
    supervisor=ProcessRef(pid=1, created=0.0),
    started_at="",
    settings={},
    servers=[],
    workers=[],
    control="/nowhere",
)
FAULT = faults.FaultOption("killed", "kafka", "Kafka", "", has_duration=True)
EARLIEST = ResetTarget("earliest")
UseCase = Callable[[Settings, sa.Engine, Principal], object]


def operations(settings: Settings, engine: sa.Engine) -> Any:
    return bootstrap.operations(settings, engine, s3=UNTOUCHED, kafka=lambda: UNTOUCHED)


def file_action(action: FileAction) -> UseCase:
    return lambda settings, engine, who: operations(settings, engine).apply(action, [1], who)


def all_matching(action: FileAction) -> UseCase:
    return lambda settings, engine, who: operations(settings, engine).authorize_all(action, who)


def submission(call: Callable[[Submissions, Principal], object]) -> UseCase:
    return lambda _settings, engine, who: call(Submissions(engine), who)


def account(call: Callable[[Accounts, Principal], object]) -> UseCase:
    return lambda _settings, engine, who: call(Accounts(engine), who)


def token(call: Callable[[Tokens, Principal], object]) -> UseCase:
    return lambda _settings, engine, who: call(Tokens(engine), who)


USE_CASES: list[tuple[str, Permission, UseCase]] = [
    ("users list", Permission.MANAGE_PEOPLE, account(lambda to, who: to.list(who))),
    ("users add", Permission.MANAGE_PEOPLE, account(lambda to, who: to.add("eve", Role.ADMIN, "0123456789", who))),
    ("users disable", Permission.MANAGE_PEOPLE, account(lambda to, who: to.disable("ann", who))),
    ("users enable", Permission.MANAGE_PEOPLE, account(lambda to, who: to.enable("ann", who))),
    ("users password", Permission.MANAGE_PEOPLE, account(lambda to, who: to.set_password("ann", "0123456789", who))),
    ("users role", Permission.MANAGE_PEOPLE, account(lambda to, who: to.set_role("ann", Role.ADMIN, who))),
    ("tokens list", Permission.MANAGE_TOKENS, token(lambda to, who: to.list(who, "ann"))),
    ("tokens list all", Permission.MANAGE_TOKENS, token(lambda to, who: to.list(who))),
    (
        "tokens create",
        Permission.MANAGE_TOKENS,
        token(lambda to, who: to.create("x", Role.VIEWER, who, owner="ann")),
    ),
    ("carl", Permission.CREATE_TOKENS, token(lambda to, who: to.create("x", Role.VIEWER, who, owner="carl"))),
    ("tokens revoke", Permission.MANAGE_TOKENS, token(lambda to, who: to.revoke(1, who))),
    ("tokens revoke of", Permission.MANAGE_TOKENS, token(lambda to, who: to.revoke(1, who, owner="ann"))),
    ("submit", Permission.CREATE_FILES, submission(lambda to, who: to.submit(FILE, principal=who))),
    ("submit_once", Permission.CREATE_FILES, submission(lambda to, who: to.submit_once(FILE, "key", principal=who))),
    ("submit_many", Permission.CREATE_FILES, submission(lambda to, who: to.submit_many([FILE], principal=who))),
    (
        "submit_many_once",
        Permission.CREATE_FILES,
        submission(lambda to, who: to.submit_many_once([FILE], "key", principal=who)),
    ),
    (
        "a batch with one allowed sender",
        Permission.CREATE_FILES,
        submission(lambda to, who: to.submit_batch([FILE] * 2, [None] * 2, principals=[local_admin("a"), who])),
    ),
    ("retry", Permission.RETRY_OWN_FILES, file_action(FileAction.RETRY)),
    ("resubmit", Permission.RETRY_FILES, lambda settings, engine, who: operations(settings, engine).resubmit([1], who)),
    ("cancel", Permission.CANCEL_OWN_FILES, file_action(FileAction.CANCEL)),
    ("delete", Permission.DELETE_OWN_FILES, file_action(FileAction.DELETE)),
    *((f"{action} all", PERMISSIONS[action], all_matching(action)) for action in FileAction),
    (
        "quiet",
        Permission.COMMAND_WORKERS,
        lambda settings, engine, who: operations(settings, engine).command_workers(WorkerCommandKind.QUIET, None, who),
    ),
    (
        "forget",
        Permission.FORGET_WORKERS,
        lambda settings, engine, who: operations(settings, engine).forget_workers(["w"], who),
    ),
    (
        "replay",
        Permission.REPLAY_DEAD_LETTERS,
        lambda _settings, engine, who: dead_letters.replay(engine, [], principal=who, rate=1, dry_run=True),
    ),
    (
        "dismiss",
        Permission.DISMISS_DEAD_LETTERS,
        lambda _settings, engine, who: dead_letters.dismiss(engine, [], principal=who),
    ),
    (
        "restore",
        Permission.DISMISS_DEAD_LETTERS,
        lambda _settings, engine, who: dead_letters.restore(engine, [], principal=who),
    ),
    (
        "reset",
        Permission.RESET_OFFSETS,
        lambda settings, engine, who: OffsetReset(settings, engine, UNTOUCHED, UNTOUCHED).apply(
            ResetPlan([], None), EARLIEST, "cancel", who
        ),
    ),
    (
        "partitions",
        Permission.ADD_PARTITIONS,
        lambda _settings, engine, who: partitions.add_partitions(engine, UNTOUCHED, "topic", 4, who),
    ),
    ("fault", Permission.INJECT_FAULTS, lambda _settings, engine, who: faults.inject(engine, STACK, FAULT, 1, who)),
    (
        "scale",
        Permission.MANAGE_WORKERS,
        lambda _settings, engine, who: stack_workers.send_supervisor_command(
            engine, STACK, SupervisorCommand("scale", role="processor", count=1), who
        ),
    ),
    (
        "orphans",
        Permission.DELETE_ORPHANS,
        lambda _settings, engine, who: Orphans(engine, UNTOUCHED).delete(who, dry_run=False),
    ),
]


@pytest.fixture(autouse=True)
def unlimited_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_records", access.RefusalRecords(1000, 1000))


def recorded(engine: sa.Engine) -> list[Any]:
    query = sa.select(Operation.actor, Operation.action, Operation.detail).order_by(Operation.id)
    with engine.connect() as connection:
        return list(connection.execute(query))


def test_each_use_case_refuses_the_role_below_and_records_the_attempt(settings: Settings, engine: sa.Engine) -> None:
    roles = list(Role)
    for name, permission, use_case in USE_CASES:
        below = roles[RULES[permission].role.rank - 1]
        with pytest.raises(Forbidden) as refused:
            use_case(settings, engine, Principal(name, below))
        assert refused.value.permission == permission, name
        actor, action, detail = recorded(engine)[-1]
        assert (actor, action, detail["permission"], detail["role"]) == (name, "refused", permission.value, below.value)
    assert {permission for _, permission, _ in USE_CASES} >= {
        permission
        for permission in Permission
        if not permission.value.endswith((".read", ".get", ".preview", ".stop", "view", ".own"))
    }
    assert len(recorded(engine)) == len(USE_CASES)
    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(File)).scalar_one() == 0
        # Refused attempts are not marked on charts.
        assert stack_audit_entries(connection, timedelta(days=1)) == []


def test_the_least_role_is_enough(settings: Settings, engine: sa.Engine) -> None:
    submitter, operator = Principal("sue", Role.SUBMITTER), Principal("olga", Role.OPERATOR)
    row = Submissions(engine).submit(FILE, principal=submitter)
    done = bootstrap.operations(settings, engine, s3=UNTOUCHED).cancel([row.id], operator)
    assert done.done == [row.id]
    assert recorded(engine) == [("olga", "cancel", {"files": [[row.id, 1]], "asked": 1})]


def test_records_of_refused_attempts_are_limited(
    settings: Settings, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(access, "_records", access.RefusalRecords(2, 5, lambda: now))
    viewer = Principal("vera", Role.VIEWER)
    for _ in range(10):
        with pytest.raises(Forbidden):
            Submissions(engine).submit(FILE, principal=viewer)
    assert len(recorded(engine)) == 2
    # Another person, and the same one from another address, have limits of their own, and all together have one.
    elsewhere = Principal("vera", Role.VIEWER, source=RequestSource("local", "10.0.0.1"))
    for who in (Principal("vic", Role.VIEWER), elsewhere):
        for _ in range(2):
            with pytest.raises(Forbidden):
                Submissions(engine).submit(FILE, principal=who)
    assert len(recorded(engine)) == 5
    now = 61.0
    with pytest.raises(Forbidden):
        Submissions(engine).submit(FILE, principal=viewer)
    assert recorded(engine)[-1].detail["left_out"] == 9


def test_an_attempt_is_refused_even_if_the_database_is_unreachable() -> None:
    engine = bootstrap.create_engine(load(database_port=1, server_timeout_seconds=1), "test")
    with pytest.raises(Forbidden):
        Submissions(engine).submit(FILE, principal=Principal("vera", Role.VIEWER))
