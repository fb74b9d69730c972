"""The option --home: every command that uses the servers of a stack has it, with the same meaning."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.testing import CliRunner, Result

from filemill.config.settings import load
from filemill.entrypoints import bootstrap, cli, doctor, kafka_only, roles
from filemill.entrypoints.cli.arguments import REST_COMMANDS
from filemill.entrypoints.doctor import DoctorCheck
from filemill.errors import Unavailable
from filemill.runtime.stack_registry import register_stack, running_stacks, unregister_stack
from filemill.runtime.stack_state import ProcessRef, StackState, remove_state, write_state

# The least arguments that a command takes; of all others it needs none.
ARGUMENTS = {
    "submit": ["A title"],
    "download": ["1"],
    "retry": ["1"],
    "cancel": ["1"],
    "delete": ["--yes", "1"],
    "dlq show": ["0:1"],
    "dlq replay": ["0:1"],
    "dlq dismiss": ["0:1"],
    "dlq restore": ["0:1"],
    "offsets preview": ["--to", "earliest"],
    "offsets reset": ["--to", "earliest"],
    "topics add-partitions": ["6"],
    "run": ["sync"],
    "handlers show": ["invoice"],
    "handlers try": ["invoice"],
    "messages": ["file.create"],
    "tokens create": ["ann", "--label", "build"],
    "tokens revoke": ["1"],
    "users add": ["ann"],
    "users disable": ["ann"],
    "users enable": ["ann"],
    "users password": ["ann"],
    "users role": ["ann", "viewer"],
    "workers scale": ["2"],
    "workers stop": ["processor-1"],
    "workers kill": ["processor-1"],
    "workers forget": ["processor-1"],
}
# They start or describe a stack and need no settings; `demo` has a temporary home of its own.
WITHOUT_SETTINGS = {"up", "down", "status", "demo"}


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    if not cli.app.registered_commands:
        cli.register(["--help"])
    return cli.app


def commands(group: TyperGroup, prefix: str = "") -> Iterator[tuple[str, TyperCommand]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{prefix}{name} ")
        else:
            assert isinstance(command, TyperCommand)
            yield f"{prefix}{name}", command


def all_commands(app: typer.Typer) -> dict[str, TyperCommand]:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return dict(commands(group))


def test_every_command_has_the_option_with_the_same_help(app: typer.Typer) -> None:
    found = all_commands(app)
    options = {
        name: [parameter for parameter in command.params if "--home" in parameter.opts]
        for name, command in found.items()
        if name != "demo"
    }
    assert not [name for name, matching in options.items() if len(matching) != 1]
    helps = {matching[0].help for matching in options.values() if isinstance(matching[0], TyperOption)}
    assert len(helps) == 1
    assert "FILEMILL_HOME" in str(helps)
    assert len(found) > 30


def test_every_command_loads_the_settings_of_the_home(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home with a stack is used instead of the one that the environment names: its broker is that of the settings."""
    monkeypatch.setenv("FILEMILL_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("FILEMILL_URL", "http://127.0.0.1:1")  # --home counts more
    home = tmp_path / "home"
    home.mkdir()
    servers: dict[str, str | int | float] = {
        "kafka_broker": "127.0.0.1:1",
        "database_host": "127.0.0.1",
        "database_port": 1,
    }
    write_state(
        StackState(
            home=str(home),
            supervisor=ProcessRef.of(os.getpid()),
            started_at="",
            settings=servers,
            servers=[],
            workers=[],
        )
    )
    used: list[Path] = []

    class Stop(Exception):
        pass

    def stop(*given: object, **_more: object) -> None:
        settings = given[0]
        assert isinstance(settings, type(load()))
        assert settings.kafka_broker == "127.0.0.1:1"
        used.append(settings.home)
        raise Stop

    for name in ("create_engine", "kafka_admin", "prepare"):
        monkeypatch.setattr(bootstrap, name, stop)
    monkeypatch.setattr(kafka_only, "kafka_admin", stop)
    monkeypatch.setattr("filemill.entrypoints.cli.handlers.handler_sources", stop)
    monkeypatch.setitem(roles.ROLES, "sync", stop)
    monkeypatch.setattr("filemill.config.logging.configure", lambda *_arguments: None)
    monkeypatch.setattr("filemill.entrypoints.cli.administration.migrate_schema", stop)
    monkeypatch.setattr("filemill.entrypoints.cli.stack.connection_environment", stop)
    monkeypatch.setattr(doctor, "_postgres", stop)
    for name in ("_kafka", "_s3"):
        monkeypatch.setattr(doctor, name, lambda _settings: DoctorCheck("a server", True, ""))
    for name in all_commands(app).keys() - WITHOUT_SETTINGS:
        used.clear()
        arguments = [*name.split(), *ARGUMENTS.get(name, []), "--home", str(home)]
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, Stop), f"{name}: {result.output} {result.exception!r}"
        assert set(used) == {home}, name


def test_status_and_down_use_the_home(app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FILEMILL_HOME", str(tmp_path / "other"))
    status = CliRunner().invoke(app, ["status", "--json", "--home", str(tmp_path / "home")])
    assert str(tmp_path / "home") in status.output
    down = CliRunner().invoke(app, ["down", "--home", str(tmp_path / "home")])
    assert (down.exit_code, "Nothing" in down.output) == (0, True)


def start_stack(home: Path) -> None:
    home.mkdir()
    ours = ProcessRef.of(os.getpid())
    write_state(StackState(home=str(home), supervisor=ours, started_at="", settings={}, servers=[], workers=[]))
    register_stack(home)


def test_the_only_running_stack_is_found_and_of_several_one_has_to_be_chosen(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FILEMILL_HOME", "FILEMILL_KAFKA_BROKER", "KAFKA_BROKER"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "runtime").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setattr("filemill.entrypoints.cli.arguments.default_home", lambda: tmp_path / "none")
    monkeypatch.setattr("filemill.entrypoints.cli.stack.default_home", lambda: tmp_path / "none")

    def status() -> Result:
        return CliRunner().invoke(app, ["status", "--json"])

    assert status().exit_code == 1
    start_stack(tmp_path / "one")
    found = status()
    assert (found.exit_code, json.loads(found.stdout)["home"]) == (0, str(tmp_path / "one"))
    start_stack(tmp_path / "two")
    several = status()
    assert several.exit_code == 2
    assert [f"--home {tmp_path / name}" in several.stderr for name in ("one", "two")] == [True, True]
    remove_state(tmp_path / "two")  # it has crashed
    assert json.loads(status().stdout)["home"] == str(tmp_path / "one")
    monkeypatch.setenv("FILEMILL_KAFKA_BROKER", "127.0.0.1:1")
    assert status().exit_code == 1  # the environment names servers
    monkeypatch.delenv("FILEMILL_KAFKA_BROKER")
    (tmp_path / "runtime" / "filemill" / "stacks").chmod(0o755)
    assert running_stacks() == []  # others can read the folder: it is not trusted
    (tmp_path / "runtime" / "filemill" / "stacks").chmod(0o700)
    unregister_stack(tmp_path / "one")
    assert running_stacks() == []


@pytest.mark.parametrize("arguments", [["lag"], ["lag", "--json"]])
def test_lag_imports_no_database_and_no_page(arguments: list[str]) -> None:
    """It answers within a second because it starts within half a second: the other commands import a second's worth."""
    program = f"""if True:
        import sys
        from filemill.entrypoints import cli
        cli.register({arguments})
        print([name for name in ("sqlalchemy", "boto3", "streamlit", "fastapi", "alembic") if name in sys.modules])
        print(cli.app.registered_commands[0].callback.__name__, len(cli.app.registered_commands))
    """
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.split("\n")[:2] == ["[]", "lag 1"]


# They need no server, or are about this machine alone.
LOCAL = {"up", "down", "run", "demo", "handlers try"}


def test_commands_that_rest_does_not_have_say_so(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FILEMILL_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("FILEMILL_TOKEN", "fm_hidden")
    monkeypatch.setattr(bootstrap, "create_engine", lambda *_given: pytest.fail("it used the database"))
    monkeypatch.setattr(kafka_only, "kafka_admin", lambda *_given: pytest.fail("it used Kafka"))
    found = all_commands(app)
    assert found.keys() >= REST_COMMANDS
    for name in found.keys() - REST_COMMANDS - LOCAL:
        result = CliRunner().invoke(app, [*name.split(), *ARGUMENTS.get(name, [])])
        assert (result.exit_code, result.stdout) == (2, ""), name
        assert f"`filemill {name}` needs the servers, and FILEMILL_URL selects REST" in result.stderr
        assert "hidden" not in result.stderr
    for name in REST_COMMANDS - LOCAL - {"submit"}:  # it tries again for a while
        result = CliRunner().invoke(app, [*name.split(), *ARGUMENTS.get(name, [])])
        assert isinstance(result.exception, Unavailable), f"{name}: {result.output}"
        assert "hidden" not in str(result.exception)
