"""The audit log is append-only, its rows are one chain, and `filemill audit verify` finds each change of it."""

import csv
import io
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from filemill.adapters.postgres.migrate import alembic_config
from filemill.adapters.postgres.tables import Operation
from filemill.config.settings import Settings
from filemill.domain.audit_chain import parse_head
from filemill.domain.permissions import Principal, RequestSource, Role, local_admin
from filemill.errors import Forbidden, Unavailable
from filemill.queries.audit import AuditFilter, audit_page, verify_audit
from filemill.services.accounts import Accounts
from filemill.services.audit import REFUSED, record, record_refusal
from filemill.services.audit_log import AuditLog
from tests.principals import TEST
from tests.servers import patient_engine, superuser

HOSTILE = (
    "=cmd|' /C calc'!A0",
    "line\nfeed\r\ttab",
    "\x00NUL",
    "\ud800 surrogate",
    "\u202egnp.exe",
    "<script>alert(1)</script>",
    "'; DROP TABLE operations; --",
    "e\u0301\u0300" * 50,
    "\U0001f4a3" * 3000,
    "\x1b[31mred",
)
NO_TRIGGERS = "ALTER TABLE operations DISABLE TRIGGER USER;"


@pytest.fixture
def application(settings: Settings, engine: sa.Engine) -> Iterator[sa.Engine]:
    """Connections with the application's role; `engine` is the owner's."""
    assert settings.as_owner().database_user != settings.database_user
    created = patient_engine(settings)
    yield created
    created.dispose()


def add(engine: sa.Engine, rows: int, action: str = "cancel") -> None:
    for number in range(rows):
        with engine.begin() as connection:
            record(connection, TEST, action, {"files": [[number, 1]], "asked": 1})


def as_owner(engine: sa.Engine, statements: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(NO_TRIGGERS + statements)


def found(engine: sa.Engine) -> dict[str, list[str]]:
    return {finding.check.value: finding.examples for finding in verify_audit(engine).findings}


def before_the_chain() -> str:
    revision = ScriptDirectory.from_config(alembic_config()).get_revision("0023")
    assert isinstance(revision.down_revision, str)
    return revision.down_revision


def test_an_empty_log_and_a_chain_of_rows_are_intact(engine: sa.Engine) -> None:
    assert verify_audit(engine).ok
    add(engine, 3)
    report = verify_audit(engine)
    assert (report.ok, report.rows, report.head.split(":")[0] if report.head else "") == (True, 3, "3")


TAMPERED: list[tuple[str, dict[str, list[str]]]] = [
    ("UPDATE operations SET actor = 'eve' WHERE sequence = 3", {"audit-row-edited": ["3"]}),
    ("UPDATE operations SET at = at - interval '1 microsecond' WHERE sequence = 1", {"audit-row-edited": ["1"]}),
    ("UPDATE operations SET detail = detail || '{\"asked\": 2}' WHERE sequence = 6", {"audit-row-edited": ["6"]}),
    ("UPDATE operations SET address = '10.0.0.1' WHERE sequence = 2", {"audit-row-edited": ["2"]}),
    ("DELETE FROM operations WHERE sequence = 2", {"audit-row-missing": ["2"]}),
    ("DELETE FROM operations WHERE sequence = 1", {"audit-row-missing": ["1"]}),
    ("DELETE FROM operations WHERE sequence IN (3, 4)", {"audit-row-missing": ["3 to 4"]}),
    ("DELETE FROM operations WHERE sequence >= 5", {"audit-end-missing": ["5 to 6"]}),
    ("DELETE FROM operations", {"audit-end-missing": ["1 to 6"]}),
    ("DELETE FROM audit_head", {"audit-head-differs": ["its row is missing"]}),
    (
        (
            "UPDATE operations SET sequence = -1 WHERE sequence = 2;"
            "UPDATE operations SET sequence = 2 WHERE sequence = 4;"
            "UPDATE operations SET sequence = 4 WHERE sequence = -1"
        ),
        {"audit-row-edited": ["2", "4"], "audit-row-out-of-order": ["2", "3", "4", "5"]},
    ),
    # An editor who computes the hash of the row again is found at the next row.
    (
        (
            "UPDATE operations SET actor = 'eve' WHERE sequence = 3;"
            "UPDATE operations SET hash = audit_hash(operations, previous_hash) WHERE sequence = 3"
        ),
        {"audit-row-out-of-order": ["4"]},
    ),
    # At the end, the head differs.
    (
        (
            "UPDATE operations SET actor = 'eve' WHERE sequence = 6;"
            "UPDATE operations SET hash = audit_hash(operations, previous_hash) WHERE sequence = 6"
        ),
        {"audit-head-differs": [""]},
    ),
    (
        (
            "DROP INDEX operations_by_sequence; INSERT INTO operations"
            " (actor, action, detail, sequence, previous_hash, hash)"
            " SELECT 'eve', action, detail, sequence, previous_hash, hash FROM operations WHERE sequence = 4"
        ),
        {"audit-row-edited": ["4"], "audit-row-out-of-order": ["4"]},
    ),
    (
        (
            "INSERT INTO operations (actor, action, detail, sequence, previous_hash, hash)"
            " SELECT 'eve', 'cancel', '{}', 7, hash, hash FROM operations WHERE sequence = 6"
        ),
        {"audit-row-edited": ["7"], "audit-row-beyond-head": ["7"]},
    ),
]


@pytest.mark.parametrize(("statements", "expected"), TAMPERED)
def test_each_change_by_the_owner_is_found(engine: sa.Engine, statements: str, expected: dict[str, list[str]]) -> None:
    add(engine, 6)
    as_owner(engine, statements)
    findings = found(engine)
    if "audit-head-differs" in expected and expected["audit-head-differs"] == [""]:
        findings["audit-head-differs"] = [""]
    assert findings == expected


def test_a_log_that_was_written_again_is_found_with_a_head_that_was_kept(engine: sa.Engine) -> None:
    add(engine, 4)
    kept = parse_head(verify_audit(engine).head or "")
    add(engine, 2)
    assert verify_audit(engine, kept).ok
    zero = "decode(repeat('00', 32), 'hex')"
    as_owner(
        engine,
        f"""CREATE TABLE kept AS SELECT * FROM operations; DELETE FROM operations;
        UPDATE audit_head SET count = 0, hash = {zero}; ALTER TABLE operations ENABLE TRIGGER operations_chain;
        INSERT INTO operations (at, actor, action, detail) SELECT at, 'eve', action, detail FROM kept ORDER BY sequence
        """,
    )
    assert verify_audit(engine).ok
    (finding,) = verify_audit(engine, kept).findings
    assert finding.check == "audit-known-head-differs"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE operations SET actor = 'eve'",
        "DELETE FROM operations",
        "TRUNCATE operations",
        "ALTER TABLE operations DISABLE TRIGGER USER",
        "DROP TRIGGER operations_chain ON operations",
        "UPDATE audit_head SET count = 0",
        "DELETE FROM audit_head",
        "INSERT INTO audit_head VALUES (2, 0, '')",
        "CREATE OR REPLACE FUNCTION chain_operation() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    ],
)
def test_the_application_cannot_change_the_log(engine: sa.Engine, application: sa.Engine, statement: str) -> None:
    add(application, 2)
    refused = pytest.raises((Unavailable, sa.exc.DBAPIError), match=r"permission denied|must be owner")
    with refused, application.begin() as connection:
        connection.execute(sa.text(statement))
    report = verify_audit(engine)
    assert (report.ok, report.rows) == (True, 2)


@pytest.mark.parametrize(
    "statement", ["UPDATE operations SET actor = ''", "DELETE FROM operations", "TRUNCATE operations"]
)
def test_a_trigger_refuses_changes_by_the_owner_too(engine: sa.Engine, statement: str) -> None:
    add(engine, 1)
    with pytest.raises((Unavailable, sa.exc.DBAPIError), match="append-only"), engine.begin() as connection:
        connection.execute(sa.text(statement))
    assert verify_audit(engine).rows == 1


def test_the_application_cannot_choose_the_place_in_the_chain(engine: sa.Engine, application: sa.Engine) -> None:
    add(application, 1)
    with application.begin() as connection:
        values = {"actor": "eve", "action": "x", "detail": {}, "sequence": 1, "previous_hash": b"", "hash": b""}
        connection.execute(sa.insert(Operation).values(**values))
    assert (verify_audit(engine).ok, verify_audit(engine).rows) == (True, 2)


def test_fifty_concurrent_writers_keep_one_chain(application: sa.Engine, engine: sa.Engine) -> None:
    start = threading.Barrier(50)

    def write(writer: int) -> None:
        start.wait(60)
        for number in range(4):
            with application.begin() as connection:
                record(connection, Principal(f"w{writer}", Role.ADMIN), "cancel", {"files": [[number, 1]]})

    with ThreadPoolExecutor(50) as pool:
        for future in [pool.submit(write, writer) for writer in range(50)]:
            future.result()
    report = verify_audit(engine)
    assert (report.ok, report.rows) == (True, 200)


def test_a_writer_that_dies_before_its_commit_leaves_no_trace(settings: Settings, engine: sa.Engine) -> None:
    add(engine, 1)
    dying = patient_engine(settings)
    try:
        ended = pytest.raises((Unavailable, sa.exc.DBAPIError))
        with ended, dying.begin() as connection:
            pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
            record(connection, TEST, "cancel", {})
            with superuser(settings) as other:
                other.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            record(connection, TEST, "cancel", {})
    finally:
        dying.dispose()
    add(engine, 1)
    report = verify_audit(engine)
    assert (report.ok, report.rows) == (True, 2)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_stored_and_verified(engine: sa.Engine, text: str) -> None:
    hostile = Principal(text, Role.ADMIN, source=RequestSource(text, text, text))
    with engine.begin() as connection:
        record(connection, hostile, "delete", {"before": [[1, "failed", text]], text: {text: (text,)}})
    add(engine, 1)
    assert verify_audit(engine).ok
    log = AuditLog(engine)
    (_, exported) = [json.loads(line) for line in b"".join(log.export(AuditFilter(), "ndjson", TEST)).splitlines()]
    stored = exported["detail"]["before"][0][2]
    assert len(stored) <= 2000
    assert stored[:10] == text[:10].replace("\x00", "\ufffd").replace("\ud800", "?")
    rows = list(csv.reader(io.StringIO(b"".join(log.export(AuditFilter(), "csv", TEST)).decode("utf-8-sig"))))
    assert len(rows) == 3
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))]
    assert all(character.isprintable() for character in rows[2][3])


def test_a_record_has_its_origin_and_a_later_refusal(engine: sa.Engine) -> None:
    ann = Principal("ann", Role.OPERATOR, source=RequestSource("session:0123456789ab", "10.1.2.3", "req-1"))
    with engine.begin() as connection:
        operation = record(connection, ann, "topic.partitions", {"topic": "t", "before": 3, "count": 4})
    with engine.begin() as connection:
        record_refusal(connection, ann, "topic.partitions", operation, "the broker refused")
    with engine.connect() as connection:
        (entry,) = audit_page(connection, AuditFilter())
        assert audit_page(connection, AuditFilter(refused=False)) == []
        assert [one.id for one in audit_page(connection, AuditFilter(refused=True))] == [operation]
    assert entry.detail == {"topic": "t", "before": 3, "count": 4, "refused": "the broker refused"}
    assert (entry.authentication, entry.address, entry.request_id) == ("session:0123456789ab", "10.1.2.3", "req-1")
    assert verify_audit(engine).ok


def test_filters_by_person_action_and_object(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        record(connection, TEST, "cancel", {"files": [[7, 1], [8, 1]], "asked": 2})
        record(connection, local_admin("ann"), "delete", {"files": [7], "asked": 1})
        record(connection, local_admin("ann"), "quiet", {"worker": "w-7"})
        record(connection, local_admin("bob"), REFUSED, {"refused": "no", "path": "/api/files/7"})

    def actions(wanted: AuditFilter) -> list[str]:
        with engine.connect() as connection:
            return [one.action for one in audit_page(connection, wanted)]

    assert actions(AuditFilter()) == ["refused", "quiet", "delete", "cancel"]
    assert actions(AuditFilter(actor="ann")) == ["quiet", "delete"]
    assert actions(AuditFilter(action="cancel")) == ["cancel"]
    assert actions(AuditFilter(object="#7")) == ["delete", "cancel"]
    assert actions(AuditFilter(object="1")) == []  # the run of a file is no file
    assert actions(AuditFilter(object="w-7")) == ["quiet"]
    assert actions(AuditFilter(object="9" * 40)) == []
    assert actions(AuditFilter(refused=True)) == ["refused"]
    assert actions(AuditFilter(actor="ann", object="7", refused=False)) == ["delete"]


def test_reading_the_log_needs_its_permission(engine: sa.Engine) -> None:
    submitter, log = Principal("sue", Role.SUBMITTER), AuditLog(engine)
    calls: list[Callable[[], object]] = [
        lambda: log.page(AuditFilter(), submitter),
        lambda: log.verify(submitter),
        lambda: log.export(AuditFilter(), "csv", submitter),
    ]
    for call in calls:
        with pytest.raises(Forbidden):
            call()


def test_a_change_of_an_account_is_recorded_with_before_and_after(engine: sa.Engine) -> None:
    accounts = Accounts(engine)
    accounts.add("ann", Role.VIEWER, "0123456789", TEST)
    accounts.set_role("ann", Role.OPERATOR, TEST)
    with engine.connect() as connection:
        entry = audit_page(connection, AuditFilter(object="ann"))[0]
    assert entry.detail["before"] == {"role": "viewer", "disabled": False}
    assert entry.detail["after"] == {"role": "operator", "disabled": False}


def test_the_migration_chains_existing_rows(engine: sa.Engine) -> None:
    config = alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, before_the_chain())
        connection.execute(
            sa.text("""
                INSERT INTO operations (actor, action, detail)
                SELECT 'ann ' || n, 'cancel', jsonb_build_object('files', jsonb_build_array(n), 'ü', 1.50)
                FROM generate_series(1, 2000) AS n
            """)
        )
        connection.execute(sa.text("DELETE FROM operations WHERE id % 7 = 0"))
        command.upgrade(config, "head")
    add(engine, 2)
    report = verify_audit(engine)
    assert (report.ok, report.rows) == (True, 2000 - 285 + 2)
    as_owner(engine, "UPDATE operations SET detail = jsonb_set(detail, '{ü}', '1.5') WHERE sequence = 5")
    assert found(engine) == {"audit-row-edited": ["5"]}


def test_a_hundred_thousand_rows_are_verified(engine: sa.Engine) -> None:
    config = alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, before_the_chain())
        connection.execute(
            sa.text("""
                INSERT INTO operations (actor, action, detail)
                SELECT 'ann', 'cancel', jsonb_build_object('files', jsonb_build_array(jsonb_build_array(n, 1)))
                FROM generate_series(1, 100000) AS n
            """)
        )
        command.upgrade(config, "head")
    report = verify_audit(engine)
    assert (report.ok, report.rows) == (True, 100_000)
    print(f"verified {report.rows} rows in {report.seconds} s")
    assert msgspec.json.encode(report)
