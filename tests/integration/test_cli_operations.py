"""The commands of an engineer on call, in this process: bulk actions, messages, dead letters, workers."""

import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog.testing
from typer.testing import CliRunner, Result

from filemill.adapters.postgres.outbox import insert_many
from filemill.adapters.postgres.tables import File, Operation, OutboxRow
from filemill.adapters.postgres.worker_events import store_events
from filemill.config.settings import Settings, as_environment
from filemill.domain.files import NewFile, new_file
from filemill.domain.worker_events import EventKind, Vitals, WorkerEvent
from filemill.entrypoints import bootstrap, cli
from filemill.ports import ReceivedEvent
from filemill.runtime.stack_state import ProcessRef, StackState, WorkerState, write_state
from filemill.runtime.supervisor_client import SupervisorCommand, SupervisorResponse
from filemill.services import stack_workers
from tests.integration import topics
from tests.integration.test_rest_health import closed_port

Command = Callable[..., Result]


@pytest.fixture
def command(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Run `filemill` with the settings of the test. A command leaves its connections to the end of its process."""
    engines: list[sa.Engine] = []

    def create_engine(settings: Settings, role: str) -> sa.Engine:
        engines.append(create(settings, role))
        return engines[-1]

    create = bootstrap.create_engine
    monkeypatch.setattr(bootstrap, "create_engine", create_engine)
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FILEMILL_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    if not cli.app.registered_commands:
        cli.register(["--help"])

    def run(*arguments: str, answer: str = "") -> Result:
        return CliRunner().invoke(cli.app, list(arguments), input=answer)

    yield run
    for engine in engines:
        engine.dispose()


def insert(engine: sa.Engine, status: str, *titles: str) -> list[int]:
    with engine.begin() as connection:
        ids = insert_many(connection, [new_file(title) for title in titles])
        connection.execute(sa.delete(OutboxRow))
        connection.execute(sa.update(File).where(File.id.in_(ids)).values(status=status))
    return ids


def statuses(engine: sa.Engine) -> dict[int, str]:
    with engine.connect() as connection:
        return {row.id: row.status for row in connection.execute(sa.select(File.id, File.status))}


def test_a_search_selects_the_files_that_allow_the_action(command: Command, engine: sa.Engine) -> None:
    pending = insert(engine, "pending", "Report 1", "Note")
    failed = insert(engine, "failed", "REPORT 2")
    cancelled = command("cancel", "--search", "report")
    assert (cancelled.exit_code, cancelled.stderr) == (0, "1 file cancelled\n")
    retried = json.loads(command("retry", "--search", "report", "--all", "failed", "--json").stdout)
    assert retried == {"retried": failed, "refused": []}
    assert statuses(engine) == {pending[0]: "cancelled", pending[1]: "pending", failed[0]: "pending"}
    assert command("retry", "--search", "report", "1").exit_code == 2
    with engine.connect() as connection:
        rows = connection.execute(sa.select(Operation.authentication, Operation.address, Operation.request_id)).all()
    assert {tuple(row)[:2] for row in rows} == {("cli", None)}
    assert all(row.request_id.startswith("cli-") for row in rows)
    with engine.begin() as connection:
        urgent, invoice = insert_many(connection, [NewFile("u", queue="urgent"), NewFile("i", "", "invoice")])
    for option, expected in ((("--queue", "urgent"), urgent), (("--handler", "invoice"), invoice)):
        assert json.loads(command("cancel", *option, "--json").stdout)["cancelled"] == [expected]
        assert command("cancel", *option, "1").exit_code == 2
    refused = command("cancel", "--search", "report", "--all", "completed")
    assert (refused.exit_code, "completed files cannot be cancelled" in refused.stderr) == (2, True)


def test_a_deletion_asks_with_the_count_and_the_titles_of_what_exists(command: Command, engine: sa.Engine) -> None:
    ids = insert(engine, "completed", *(f"Old {number}" for number in range(7)))
    insert(engine, "pending", "Old but pending")
    asked = command("delete", "--search", "old", answer="n\n")
    assert asked.exit_code == 1
    assert asked.stderr.splitlines()[:6] == [*(f"#{ids[n]}  Old {n}" for n in range(5)), "… and 2 more"]
    assert "Delete 7 files for good?" in asked.stderr
    one = command("delete", str(ids[0]), "999999", answer="n\n")
    assert "Delete 1 file for good?" in one.stderr
    unknown = command("delete", "999999")
    assert (unknown.exit_code, "for good" in unknown.stderr) == (1, False)
    assert "file 999999 not deleted: there is no such file" in unknown.stderr
    assert len(statuses(engine)) == 8
    assert command("delete", "--search", "old", answer="y\n").exit_code == 0
    assert list(statuses(engine).values()) == ["pending"]


def test_messages_are_paged_and_filtered(command: Command, settings: Settings) -> None:
    topic = settings.topic_created
    for partition in range(3):
        topics.publish(settings, topic, [f"p{partition} r{n}".encode() for n in range(4)], partition=partition)
    seen, after = [], ""
    while after is not None:
        page = json.loads(command("messages", topic, "--limit", "5", "--after", after, "--json").stdout)
        seen += [(record["partition"], record["offset"]) for record in page["records"]]
        after = page["next"]
    assert sorted(seen) == [(partition, offset) for partition in range(3) for offset in range(4)]
    assert (page["looked_at"], page["total"]) == (12, 12)
    found = command("messages", topic, "--text", "P1 R2")
    assert "p1 r2" in found.stdout
    assert found.stderr == "Shown: 1. Looked at 12 of 12\n"
    later = json.loads(command("messages", topic, "--from-offset", "3", "--partition", "2", "--json").stdout)
    assert [record["value"] for record in later["records"]] == ["p2 r3"]
    for wrong, code in ((["--after", "x"], 2), (["--from-time", "soon"], 2), (["--partition", "3"], 2)):
        assert command("messages", topic, *wrong).exit_code == code
    assert command("messages", "no.such.topic").exit_code == 1


def test_a_dead_letter_is_shown_as_json(command: Command, settings: Settings) -> None:
    headers = [("filemill-reason", b"bad luck"), ("filemill-trace", b"Trace")]
    topics.publish(settings, settings.topic_dead_letters, [b"\xff payload"], partition=1, headers=headers)
    letter = json.loads(command("dlq", "show", "1:0", "--json").stdout)
    assert (letter["place"], letter["reason"], letter["value"], letter["trace"]) == (
        "1:0", "bad luck", "\\xff payload", "Trace",
    )  # fmt: skip


def test_dead_letters_are_filtered_by_queue(command: Command, settings: Settings) -> None:
    for number, queue in enumerate(("default", "bulk", "bulk")):
        headers = [
            *(("filemill-topic", settings.all_queues[queue].topic.encode()), ("filemill-partition", b"0")),
            *(("filemill-offset", str(number).encode()), ("filemill-reason", b"no luck")),
        ]
        topics.publish(settings, settings.topic_dead_letters, [b"x"], partition=0, headers=headers)

    def places(*arguments: str) -> list[str]:
        return [one["place"] for one in json.loads(command("dlq", "list", "--json", *arguments).stdout)["letters"]]

    assert places() == ["0:0", "0:1", "0:2"]
    assert places("--queue", "bulk") == ["0:1", "0:2"]
    assert places("--queue", "default") == ["0:0"]
    assert places("--queue", "urgent") == []
    assert json.loads(command("dlq", "dismiss", "--all", "--queue", "bulk", "--json").stdout) == {
        "dismissed": ["0:1", "0:2"]
    }
    unknown = command("dlq", "list", "--queue", "quick")
    assert unknown.exit_code == 2
    assert "there is no queue 'quick'; there are: default, jobs, urgent, bulk" in unknown.stderr


def test_files_are_filtered_by_queue_and_handler(command: Command, engine: sa.Engine) -> None:
    wanted = [("text", "bulk"), ("invoice", "jobs"), ("invoice", "bulk")]
    with engine.begin() as connection:
        files = [NewFile(f"Of {handler}", handler=handler, queue=queue) for handler, queue in wanted]
        ids = insert_many(connection, files)

    def found(*arguments: str) -> list[int]:
        return [row["id"] for row in json.loads(command("files", "--json", *arguments).stdout)["items"]]

    assert found("--queue", "bulk") == [ids[2], ids[0]]
    assert found("--handler", "invoice") == [ids[2], ids[1]]
    assert found("--handler", "invoice", "--queue", "bulk") == [ids[2]]
    assert found("--queue", "urgent") == []


def test_dead_letters_are_dismissed_and_restored(command: Command, settings: Settings, engine: sa.Engine) -> None:
    for reason in (b"S3 said 503", b"no luck"):
        headers = [("filemill-reason", reason)]
        topics.publish(settings, settings.topic_dead_letters, [b"x"], partition=0, headers=headers)
    dismissed = command("dlq", "dismiss", "--all", "--reason", "s3 said")
    assert dismissed.stderr == "1 dead letter dismissed\n", repr(dismissed.exception)
    left = json.loads(command("dlq", "list", "--still-broken", "--json").stdout)["letters"]
    assert [letter["place"] for letter in left] == ["0:1"]
    everything = json.loads(command("dlq", "list", "--json").stdout)["letters"]
    assert [letter["dismissed"] for letter in everything] == [True, False]
    assert json.loads(command("dlq", "dismiss", "0:0", "--json").stdout) == {"dismissed": []}
    assert json.loads(command("dlq", "restore", "0:0", "--json").stdout) == {"restored": ["0:0"]}
    assert len(json.loads(command("dlq", "list", "--still-broken", "--json").stdout)["letters"]) == 2
    with engine.connect() as connection:
        actions = list(connection.execute(sa.select(Operation.action).order_by(Operation.id)).scalars())
    assert actions == ["dlq.dismiss", "dlq.restore"]


def test_quiet_workers_and_their_partitions_are_named(command: Command, engine: sa.Engine) -> None:
    event = WorkerEvent(
        kind=EventKind.HEARTBEAT, worker_id="w", timestamp=datetime.now(UTC), owned=[2], vitals=Vitals(quiet=True)
    )
    with engine.begin() as connection:
        store_events(connection, [ReceivedEvent(0, 1, event)])
    line = next(line for line in command("workers", "list").stdout.splitlines() if line.startswith("w "))
    assert "idle, quiet" in line
    assert " P2 " in line


def test_without_kafka_what_workers_do_is_unknown(
    command: Command, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = "INSERT INTO leases (name, holder, fencing, expires_at) VALUES ('sync', 's', 1, now() + interval '1 h')"
    kinds = {"busy": EventKind.HEARTBEAT, "gone": EventKind.HEARTBEAT, "stopped": EventKind.STOPPED}
    with engine.begin() as connection:
        connection.execute(sa.text(hold))
        for number, (name, kind) in enumerate(kinds.items()):
            at = datetime.now(UTC) - timedelta(minutes=name == "gone")
            event = WorkerEvent(kind=kind, worker_id=name, timestamp=at, owned=[2], vitals=Vitals(in_flight=1))
            store_events(connection, [ReceivedEvent(0, number, event)])

    def listed() -> tuple[dict[str, str], Any, str]:
        with structlog.testing.capture_logs():  # without a configuration, the Kafka client's lines go to stdout
            shown = command("workers", "list")
            found = json.loads(command("workers", "list", "--json").stdout)
        return {one["id"]: one["condition"] for one in found}, found[0]["stalled"], shown.stdout + shown.stderr

    states, stalled, text = listed()
    assert (states, stalled) == ({"busy": "busy", "gone": "dead", "stopped": "stopped"}, [])
    assert "Kafka" not in text
    monkeypatch.setenv("FILEMILL_KAFKA_BROKER", f"127.0.0.1:{closed_port()}")
    monkeypatch.setenv("FILEMILL_SERVER_TIMEOUT_SECONDS", "1")
    states, stalled, text = listed()
    assert (set(states.values()), stalled) == ({"unknown"}, None)
    assert "Kafka is unreachable, so what the workers do is unknown." in text
    assert "dead" not in text


def test_workers_that_have_stopped_are_forgotten(command: Command, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        for number, (name, kind) in enumerate({"a": EventKind.STOPPED, "b": EventKind.HEARTBEAT}.items()):
            event = WorkerEvent(kind=kind, worker_id=name, timestamp=datetime.now(UTC))
            store_events(connection, [ReceivedEvent(0, number, event)])
    assert command("workers", "forget").exit_code == 2
    refused = command("workers", "forget", "b")
    assert (refused.exit_code, "has not reported its stop" in refused.stderr) == (1, True)
    assert command("workers", "forget", "nobody").exit_code == 1
    assert command("workers", "forget", "--all").stderr == "1 worker forgotten: a\n"
    assert command("workers", "forget", "--all").stderr == "0 workers forgotten\n"


def test_workers_are_scaled_stopped_and_killed(
    command: Command, settings: Settings, engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = command("workers", "scale", "3")
    assert (alone.exit_code, "no stack is running" in alone.stderr) == (1, True)
    process, received = ProcessRef.of(os.getpid()), list[SupervisorCommand]()
    workers = [WorkerState(role="processor", id="processor-1", process=process, log="")]
    write_state(
        StackState(home=str(tmp_path), supervisor=process, started_at="", settings={}, servers=[], workers=workers)
    )

    def send(_stack: StackState, sent: SupervisorCommand) -> SupervisorResponse:
        received.append(sent)
        return SupervisorResponse(workers=["processor-1", "processor-2"])

    monkeypatch.setattr(stack_workers, "send", send)
    scaled = command("workers", "scale", "2")
    assert scaled.stderr == "File processors: 1 → 2 (processor-1, processor-2)\n"
    assert command("workers", "stop", "processor-1").stderr == "processor-1 was stopped\n"
    assert command("workers", "kill", "processor-1").exit_code == 0
    unknown = command("workers", "kill", "sync-1")
    assert (unknown.exit_code, "File processors of the stack: processor-1" in unknown.stderr) == (1, True)
    assert received == [
        SupervisorCommand("scale", role="processor", count=2),
        SupervisorCommand("stop", worker="processor-1"),
        SupervisorCommand("kill", worker="processor-1"),
    ]
    with engine.connect() as connection:
        actions: list[Any] = list(connection.execute(sa.select(Operation.action).order_by(Operation.id)).scalars())
    assert actions == ["stack.scale", "stack.stop", "stack.kill"]
