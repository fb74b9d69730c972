"""The commands through REST with a person's token print the same as with the servers' credentials."""

import contextlib
import io
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import structlog.testing

from filemill.adapters.postgres.tables import File, OutboxRow, PersonalToken
from filemill.adapters.postgres.worker_events import store_events
from filemill.config.settings import Settings, as_environment
from filemill.domain.content import sha256_hex
from filemill.domain.permissions import Role, local_admin
from filemill.domain.worker_events import EventKind, Vitals, WorkerEvent
from filemill.entrypoints import bootstrap, cli
from filemill.ports import ReceivedEvent
from filemill.services.accounts import Accounts
from filemill.services.audit import REFUSED, record
from filemill.services.tokens import NewToken, Tokens
from filemill_dashboard.state.downloads import CHECK_WHOLE_BYTES
from tests.integration import topics
from tests.integration.rest import Rest, change, serving
from tests.integration.test_cli_operations import insert
from tests.integration.test_rest_health import closed_port
from tests.principals import TEST

PASSWORD = "correct horse battery"
PEOPLE = {"vic": Role.VIEWER, "sue": Role.SUBMITTER, "olga": Role.OPERATOR, "ada": Role.ADMIN}


@dataclass(frozen=True)
class Outcome:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


class Commands:
    """Runs `filemill` in this process, as the console command does."""

    def __init__(
        self, settings: Settings, home: Path, monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]
    ) -> None:
        self._monkeypatch = monkeypatch
        self._capture = capture
        self.url = ""
        self.tokens: dict[str, NewToken] = {}
        for name, value in {**as_environment(settings), "FILEMILL_HOME": str(home)}.items():
            monkeypatch.setenv(name, value)

    def direct(self, *arguments: str, answer: str = "") -> Outcome:
        """With the servers' credentials."""
        for name in ("FILEMILL_URL", "FILEMILL_TOKEN"):
            self._monkeypatch.delenv(name, raising=False)
        return self._run(arguments, answer)

    def rest(self, who: str, *arguments: str, answer: str = "") -> Outcome:
        """With the token of a person; "": without one."""
        self._monkeypatch.setenv("FILEMILL_URL", self.url)
        self._monkeypatch.setenv("FILEMILL_TOKEN", self.tokens[who].secret if who else "")
        found = self._run(arguments, answer)
        for token in self.tokens.values():
            assert token.secret not in found.out + found.err
        return found

    def both(self, *arguments: str, who: str = "ada") -> Outcome:
        """In both ways, with the same outcome."""
        direct, rest = self.direct(*arguments), self.rest(who, *arguments)
        assert rest == direct, arguments
        return rest

    def _run(self, arguments: tuple[str, ...], answer: str) -> Outcome:
        self._monkeypatch.setattr(sys, "argv", ["filemill", *arguments])
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        self._capture.readouterr()
        # Without a configuration, the lines of the Kafka client go to stdout.
        with structlog.testing.capture_logs(), pytest.raises(SystemExit) as ended:
            cli.main()
        printed = self._capture.readouterr()
        assert isinstance(ended.value.code, int)
        assert "Traceback" not in printed.err
        return Outcome(ended.value.code, printed.out, printed.err.lstrip("\n"))  # the end of a progress bar


@pytest.fixture
def commands(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Commands]:
    engines: list[sa.Engine] = []
    clients: list[httpx.Client] = []
    create = bootstrap.create_engine

    class Client(httpx.Client):
        """A command leaves its connections to the end of its process."""

        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            clients.append(self)

    def create_engine(settings: Settings, role: str) -> sa.Engine:
        engines.append(create(settings, role))
        return engines[-1]

    monkeypatch.setattr(bootstrap, "create_engine", create_engine)
    monkeypatch.setattr(httpx, "Client", Client)
    if not cli.app.registered_commands:
        cli.register(["--help"])
    monkeypatch.setattr(cli, "register", lambda _arguments: None)
    monkeypatch.setattr("filemill.config.logging.configure_for_command", lambda: None)
    yield Commands(settings, tmp_path / "home", monkeypatch, capsys)
    for client in clients:
        client.close()
    for engine in engines:
        engine.dispose()


@contextlib.contextmanager
def dashboard_with(commands: Commands, settings: Settings, engine: sa.Engine, **changes: object) -> Iterator[Rest]:
    """A dashboard in mode `accounts`, for which everybody has a token."""
    with serving(settings.model_copy(update={"auth": "accounts", **changes})) as running:
        accounts, tokens = Accounts(engine), Tokens(engine)
        for name, role in PEOPLE.items():
            accounts.add(name, role, PASSWORD, TEST)
            commands.tokens[name] = tokens.create("test", role, TEST, owner=name)
        commands.url = str(running.client.base_url).rstrip("/")
        yield running


@pytest.fixture
def dashboard(commands: Commands, settings: Settings, engine: sa.Engine) -> Iterator[Rest]:
    with dashboard_with(commands, settings, engine) as running:
        yield running


def completed(rest: Rest, engine: sa.Engine, settings: Settings, size: int) -> tuple[int, bytes]:
    """A completed file and its content."""
    (file_id,) = insert(engine, "completed", f"Of {size} bytes")
    key, body = f"file-{file_id}-1704369660000.txt", bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    rest.services.s3.put_object(Bucket=settings.s3_bucket, Key=key, Body=body)
    change(engine, file_id, s3_location=key, sha256=sha256_hex(body), size=size)
    return file_id, body


def statuses(engine: sa.Engine) -> dict[int, str]:
    with engine.connect() as connection:
        return {row.id: row.status for row in connection.execute(sa.select(File.id, File.status))}


def without(document: str, *names: str) -> Any:
    """A JSON document without these fields, which depend on the time."""
    found = json.loads(document)
    for one in found if isinstance(found, list) else [found]:
        for name in names:
            del one[name]
    return found


def test_files_are_listed_alike(commands: Commands, dashboard: Rest, engine: sa.Engine) -> None:
    del dashboard
    for status in ("pending", "processing", "failed", "cancelled", "completed"):
        insert(engine, status, f"{status} [bold]1[/bold] \u202e", "Report")
    for arguments in (
        ("files",),
        ("files", "--status", "failed"),
        ("files", "--search", "report", "--limit", "3"),
        ("files", "--search", "#4"),
        ("files", "--queue", "bulk"),
        ("files", "--handler", "text", "--limit", "1"),
        ("files", "--cursor", "nonsense"),
    ):
        commands.both(*arguments, who="vic")
    listed = commands.rest("vic", "files", "--limit", "4", "--json")
    assert without(listed.out, "as_of") == without(commands.direct("files", "--limit", "4", "--json").out, "as_of")
    older = json.loads(listed.out)["older"]
    assert older
    commands.both("files", "--cursor", older, who="vic")
    commands.both("download", "1", who="vic")
    assert commands.both("download", "999999", who="vic") == Outcome(1, "", "Error: there is no file 999999\n")


def test_requests_are_submitted_once_and_awaited(
    commands: Commands, dashboard: Rest, engine: sa.Engine, tmp_path: Path
) -> None:
    del dashboard
    parameters = tmp_path / "parameters.json"
    parameters.write_text("{}")
    options = ["--description", "text", "--queue", "urgent", "--parameters", str(parameters)]
    once = ["submit", "A title", *options, "--idempotency-key", 'my "key"']
    assert commands.rest("sue", *once) == Outcome(0, "", "Submitted file 1.\n")
    assert commands.rest("sue", *once) == Outcome(0, "", "Submitted file 1.\n")
    with engine.connect() as connection:
        row = connection.execute(sa.select(File)).one()
    assert (row.title, row.description, row.queue, row.owner, row.handler) == (
        "A title",
        "text",
        "urgent",
        "sue",
        "text",
    )
    reused = commands.rest("sue", "submit", "Another", "--idempotency-key", 'my "key"')
    assert (reused.code, "another request" in reused.err) == (2, True)
    change(engine, 1, status="completed")
    waited = commands.rest("sue", *once, "--wait", "--json")
    assert (waited.code, json.loads(waited.out)) == (0, {"submitted": 1, "ids": [1], "statuses": {"completed": 1}})
    many = commands.rest("sue", "submit", "Many", "--count", "3", "--wait", "--timeout", "0", "--json")
    assert (many.code, json.loads(many.out)) == (1, {"submitted": 3, "ids": [2, 3, 4], "statuses": {"pending": 3}})
    change(engine, 1, status="failed")
    assert commands.rest("sue", *once, "--wait") == Outcome(1, "", "file 1: 1 failed\n")
    for wrong in (("submit", " "), ("submit", "T", "--queue", "quick"), ("submit", "T", "--handler", "nothing")):
        refused = commands.both(*wrong, who="sue")
        assert (refused.code, refused.out) == (2, "")
    assert len(statuses(engine)) == 4


def test_files_are_retried_cancelled_and_deleted_alike(commands: Commands, dashboard: Rest, engine: sa.Engine) -> None:
    del dashboard

    def files() -> list[int]:
        return [
            *insert(engine, "failed", "Old 1"),
            *insert(engine, "pending", "Old 2"),
            *insert(engine, "completed", "x"),
        ]

    def renumbered(found: Outcome, ids: list[int]) -> Outcome:
        text = [
            one.replace(str(ids[0]), "A").replace(str(ids[1]), "B").replace(str(ids[2]), "C")
            for one in (found.out, found.err)
        ]
        return Outcome(found.code, *text)

    with engine.begin() as connection:
        connection.execute(sa.text("SELECT setval(pg_get_serial_sequence('files', 'id'), 1000)"))
    for way in (
        "retry --json {0} {1}",
        "retry --search old",
        "cancel --all pending --json",
        "delete --yes {2} 77777",
        "delete --yes --search old --json",
    ):
        outcomes = []
        for run in (commands.direct, lambda *given: commands.rest("ada", *given)):
            with engine.begin() as connection:
                connection.execute(sa.delete(OutboxRow))
                connection.execute(sa.delete(File))
            ids = files()
            found = run(*way.format(*ids).split())
            outcomes.append((renumbered(found, ids), sorted(statuses(engine).values())))
        assert outcomes[0] == outcomes[1], way
    for wrong in (
        ("retry",),
        ("retry", "--search", "x", "1"),
        ("cancel", "--search", "x", "--all", "completed"),
        ("retry", "--lost", "1"),
        ("delete", "0"),
    ):
        assert commands.both(*wrong).code == 2
    commands.both("retry", "--lost", "--json")


def test_a_deletion_asks_with_the_titles(commands: Commands, dashboard: Rest, engine: sa.Engine) -> None:
    del dashboard
    insert(engine, "completed", *(f"Old {number}" for number in range(7)))
    insert(engine, "pending", "Old but pending")
    asked = [
        run("delete", "--search", "old", answer="n\n")
        for run in (commands.direct, lambda *given, **more: commands.rest("ada", *given, **more))
    ]
    assert asked[0] == asked[1]
    assert (asked[1].code, "… and 2 more" in asked[1].err, len(statuses(engine))) == (1, True, 8)
    assert commands.rest("ada", "delete", "--search", "old", answer="y\n").code == 0
    assert list(statuses(engine).values()) == ["pending"]


@pytest.mark.parametrize("size", [0, 5_000, 3_000_001])
def test_a_download_is_checked_and_replaces_a_file_only_if_it_is_right(
    commands: Commands, dashboard: Rest, engine: sa.Engine, settings: Settings, tmp_path: Path, size: int
) -> None:
    file_id, body = completed(dashboard, engine, settings, size)
    folder = tmp_path / "downloads"
    folder.mkdir()
    target = folder / "target"
    expected = Outcome(0, "", f"{target}: {size} bytes\n")
    assert commands.both("download", str(file_id), "--output", str(target), who="vic") == expected
    assert target.read_bytes() == body
    target.write_text("mine")
    change(engine, file_id, sha256=sha256_hex(b"other"))
    refused = commands.rest("vic", "download", str(file_id), "--output", str(target))
    assert (refused.code, refused.out) == (1, "")
    if size <= CHECK_WHOLE_BYTES:
        assert refused == commands.direct("download", str(file_id), "--output", str(target))
    else:
        assert "ended the transfer before its end" in refused.err
    assert target.read_text() == "mine"
    assert [path.name for path in folder.iterdir()] == ["target"]
    denied = commands.rest("vic", "download", str(file_id), "--output", str(tmp_path / "no" / "folder"))
    assert (denied.code, "No such file or directory" in denied.err) == (1, True)


def dead_letters(engine: sa.Engine, settings: Settings) -> int:
    (file_id,) = insert(engine, "failed", "broken")
    value = {"fileId": file_id, "title": "broken", "description": "", "timestamp": datetime.now(UTC).isoformat()}
    origin = [
        ("filemill-topic", settings.topic_create.encode()),
        ("filemill-partition", b"0"),
        ("filemill-offset", b"7"),
    ]
    headers = [*origin, ("filemill-reason", b"S3 said 503"), ("filemill-trace", b"Trace\nof it"), ("x", None)]
    topics.publish(settings, settings.topic_dead_letters, [json.dumps(value).encode()], partition=0, headers=headers)
    topics.publish(settings, settings.topic_dead_letters, [b"\xff not json"], partition=1)
    return file_id


def test_dead_letters_are_shown_and_replayed_alike(
    commands: Commands, dashboard: Rest, engine: sa.Engine, settings: Settings
) -> None:
    del dashboard
    file_id = dead_letters(engine, settings)
    for arguments in (
        ("list",),
        ("list", "--json"),
        ("list", "--still-broken", "--reason", "s3 said"),
        ("list", "--queue", "bulk", "--json"),
        ("list", "--queue", "quick"),
        ("show", "0:0"),
        ("show", "0:0", "--json"),
        ("show", "1:0"),
        ("show", "7:7"),
        ("replay", "0:0", "1:0", "--dry-run"),
        ("replay", "0:0", "1:0", "--dry-run", "--json"),
        ("replay", "7:7"),
        ("replay", "--all", "--dry-run", "--json"),
        ("replay", "--all", "--max-runs", "1", "--json"),
    ):
        commands.both("dlq", *arguments, who="olga")
    assert commands.direct("dlq", "dismiss", "1:0").code == 0
    commands.both("dlq", "list", "--still-broken", "--json", who="olga")
    replayed = commands.rest("olga", "dlq", "replay", "--all", "--json")
    assert (replayed.code, json.loads(replayed.out)["files"]) == (0, [file_id])
    assert statuses(engine) == {file_id: "pending"}
    commands.both("dlq", "replay", "0:0", who="olga")


def test_workers_handlers_and_the_audit_log_are_shown_alike(
    commands: Commands, dashboard: Rest, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    del dashboard
    event = WorkerEvent(
        kind=EventKind.HEARTBEAT, worker_id="w", timestamp=datetime.now(UTC), owned=[2], vitals=Vitals(quiet=True)
    )
    with engine.begin() as connection:
        store_events(connection, [ReceivedEvent(0, 1, event)])
        for number in range(120):
            record(connection, TEST, "cancel", {"files": [[number + 1, 1]], "asked": 1})
        record(connection, local_admin("eve"), REFUSED, {"refused": "no", "path": "/api/files/7"})
    workers = [
        run("workers", "list", "--json").out for run in (commands.direct, lambda *given: commands.rest("vic", *given))
    ]
    assert without(workers[0], "heard_seconds_ago") == without(workers[1], "heard_seconds_ago")
    assert "idle, quiet" in commands.rest("vic", "workers", "list").out
    commands.both("handlers", "show", "text", who="vic")
    assert commands.rest("vic", "handlers", "show", "none").code == 2
    assert [one["name"] for one in json.loads(commands.rest("vic", "handlers", "list", "--json").out)] == ["text"]
    for arguments in (
        ("list",),
        ("list", "--limit", "3", "--json"),
        ("list", "--limit", "110", "--json"),
        ("list", "--limit", "5", "--before", "40"),
        ("list", "--actor", "eve", "--refused"),
        ("list", "--object", "7", "--done", "--since", "2020-01-01"),
        ("list", "--since", "2999-01-01"),
        ("export", "--actor", "eve"),
        ("export", "--format", "csv"),
    ):
        commands.both("audit", *arguments, who="olga")


def test_the_status_says_who_one_is_and_what_answers(
    commands: Commands, dashboard: Rest, settings: Settings, engine: sa.Engine
) -> None:
    del dashboard
    insert(engine, "failed", "a", "b")
    shown = commands.rest("sue", "status")
    assert shown.code == 0
    assert f"dashboard  {commands.url}" in shown.out
    assert f"you are    sue   submitter   by token:{commands.tokens['sue'].id}\n" in shown.out
    found = json.loads(commands.rest("sue", "status", "--json").out)
    assert found["servers"] == {"kafka": True, "postgres": True, "s3": True}
    assert (found["user"]["role"], found["pipeline"]["files"]["failed"]) == ("submitter", 2)
    with dashboard_of_no_s3(settings) as url:
        commands.url = url
        down = commands.rest("sue", "status")
    assert (down.code, "s3        not ready" in down.out) == (1, True)


@contextlib.contextmanager
def dashboard_of_no_s3(settings: Settings) -> Iterator[str]:
    away = {"auth": "accounts", "s3_endpoint": f"http://127.0.0.1:{closed_port()}", "server_timeout_seconds": 1}
    with serving(settings.model_copy(update=away)) as running:
        yield str(running.client.base_url)


def test_a_role_that_does_not_suffice_is_named(commands: Commands, dashboard: Rest, engine: sa.Engine) -> None:
    del dashboard
    (file_id,) = insert(engine, "failed", "Of another")
    for who, arguments, role in (
        ("vic", ("submit", "T"), "submitter"),
        ("vic", ("retry", str(file_id)), "submitter"),
        ("sue", ("dlq", "list"), "operator"),
        ("sue", ("dlq", "replay", "--all"), "operator"),
        ("sue", ("audit", "list"), "operator"),
        ("sue", ("audit", "export"), "operator"),
        ("olga", ("delete", "--yes", str(file_id)), "admin"),
        ("sue", ("retry", str(file_id)), "operator"),
        ("sue", ("retry", "--lost"), "operator"),
    ):
        refused = commands.rest(who, *arguments)
        assert (refused.code, refused.out, role in refused.err) == (1, "", True), (arguments, refused)
    assert statuses(engine) == {file_id: "failed"}


def test_a_token_that_is_missing_expired_or_revoked_is_refused(
    commands: Commands, dashboard: Rest, engine: sa.Engine
) -> None:
    del dashboard
    assert "requires a token" in commands.rest("", "files").err
    with engine.begin() as connection:
        expired = sa.update(PersonalToken).where(PersonalToken.id == commands.tokens["vic"].id)
        connection.execute(expired.values(expires_at=sa.text("now() - interval '1 second'")))
    assert commands.rest("sue", "files").code == 0
    Tokens(engine).revoke(commands.tokens["sue"].id, TEST)
    deadline = time.monotonic() + 10
    while (revoked := commands.rest("sue", "files")).code == 0:  # it is known for two seconds
        assert time.monotonic() < deadline
    for refused in (revoked, commands.rest("vic", "files"), commands.rest("vic", "status")):
        assert (refused.code, refused.out) == (1, "")
        assert "does not accept the token: it is unknown, expired, revoked" in refused.err


def test_limits_are_waited_for_if_they_are_short(commands: Commands, settings: Settings, engine: sa.Engine) -> None:
    limits = {"limit_writes_per_second": 1.0, "limit_writes_burst": 1}
    with dashboard_with(commands, settings, engine, **limits):
        began = time.monotonic()
        assert commands.rest("sue", "submit", "T", "--count", "2").code == 0
        assert time.monotonic() - began > 0.5
    slow = {"auth": "accounts", "limit_writes_per_second": 1e-3, "limit_writes_burst": 1}
    with serving(settings.model_copy(update=slow)) as running:
        commands.url = str(running.client.base_url)
        refused = commands.rest("olga", "submit", "T", "--count", "2", "--idempotency-key", "k")
    assert refused.code == 1
    assert "Try again in " in refused.err
    assert (
        "Accepted before: 1. To submit the others, repeat the command: filemill submit … --idempotency-key k"
        in refused.err
    )
    assert len(statuses(engine)) == 3


def test_without_a_server_the_exit_code_is_that_of_an_unreachable_server(commands: Commands, dashboard: Rest) -> None:
    del dashboard
    commands.url = f"http://127.0.0.1:{closed_port()}"
    for arguments in (("files",), ("status",), ("submit", "T"), ("dlq", "list"), ("download", "1")):
        refused = commands.rest("sue", *arguments)
        assert (refused.code, refused.out, "is unreachable" in refused.err) == (3, "", True)
        assert "filemill up" not in refused.err
