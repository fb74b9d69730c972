"""The docker command from Python, on a `docker` that says what a test wants."""

import json
from pathlib import Path

import pytest

from filemill_infra.compose import Compose, ComposeError, Container

ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script in the place of `docker`; it writes down its arguments."""
    script = tmp_path / "docker"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    say(script, "")
    return script


def say(script: Path, text: str, code: int = 0) -> None:
    script.with_name("said").write_text(text)
    script.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >> {script}.calls\ncat {script.with_name("said")}\nexit {code}\n'
    )
    script.chmod(0o755)


def calls(script: Path) -> list[str]:
    return Path(f"{script}.calls").read_text().splitlines()


def container(**changes: object) -> dict[str, object]:
    known = {"ID": ID, "Name": "p-processor-1", "Service": "processor", "State": "running"}
    return {**known, "Health": "healthy", "ExitCode": 0, **changes}


def test_containers_are_those_that_compose_lists(docker: Path) -> None:
    lines = [container(Name="p-b-1", State="exited", Health="", ExitCode=137), container(Name="p-a-1")]
    say(docker, "\n".join(map(json.dumps, lines)) + "\n")
    found = Compose(project="p").containers("processor")
    assert found == [
        Container(ID, "p-a-1", "processor", "running", "healthy", 0),
        Container(ID, "p-b-1", "processor", "exited", "", 137),
    ]
    assert found[0].worker_prefix == "0123456789ab-"
    assert calls(docker)[-1].startswith("compose --file docker-compose.yaml --project-name p ps --all")


def test_a_scale_touches_nothing_else(docker: Path) -> None:
    Compose(files=["a.yaml", "b.yaml"]).scale("processor", 4)
    assert calls(docker) == [
        "compose --file a.yaml --file b.yaml up --detach --no-deps --no-recreate --scale processor=4 processor"
    ]


def test_up_waits_for_health(docker: Path) -> None:
    Compose().up("relay", scale={"processor": 3})
    assert calls(docker) == ["compose --file docker-compose.yaml up --detach --wait --scale processor=3 relay"]


def test_what_is_done_to_one_container_names_it_by_its_id(docker: Path) -> None:
    one = Container(ID, "p-processor-1", "processor", "running", "healthy", 0)
    compose = Compose()
    compose.kill(one)
    compose.kill(one, "TERM")
    compose.pause(one)
    compose.unpause(one)
    compose.stop(one)
    compose.start(one)
    commands = ["kill --signal KILL", "kill --signal TERM", "pause", "unpause", "stop", "start"]
    assert calls(docker) == [f"{command} {ID}" for command in commands]


def test_logs_since_a_moment(docker: Path) -> None:
    say(docker, "processor-1  | hello\n")
    assert Compose().logs("processor", since="10m", tail=5) == "processor-1  | hello\n"
    assert calls(docker)[-1].endswith("logs --no-color --since 10m --tail 5 processor")


def test_a_failure_says_what_was_run_and_what_came_of_it(docker: Path) -> None:
    say(docker, "no such service: nobody", 14)
    with pytest.raises(ComposeError, match=r"docker compose .* restart nobody: exit code 14\nno such service: nobody"):
        Compose().restart("nobody")


def test_a_command_that_does_not_end_is_ended(docker: Path) -> None:
    docker.write_text("#!/bin/sh\nexec sleep 30\n")
    with pytest.raises(ComposeError, match=r"no end after 0\.2 s"):
        Compose().run("ps", timeout=0.2)


def test_no_docker_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ComposeError, match="there is no `docker` command on this machine"):
        Compose().containers()
