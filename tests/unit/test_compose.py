"""Control of a composed stack, with a script in place of `docker`."""

import json
from pathlib import Path

import pytest

from filemill_infra.compose import Compose, ComposeError, Container

ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script in place of `docker`, which records its arguments."""
    script = tmp_path / "docker"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    set_output(script, "")
    return script


def set_output(script: Path, text: str, code: int = 0) -> None:
    script.with_name("output").write_text(text)
    script.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >> {script}.calls\ncat {script.with_name("output")}\nexit {code}\n'
    )
    script.chmod(0o755)


def calls(script: Path) -> list[str]:
    return Path(f"{script}.calls").read_text().splitlines()


def container(**changes: object) -> dict[str, object]:
    known = {"ID": ID, "Name": "p-processor-1", "Service": "processor", "State": "running"}
    return {**known, "Health": "healthy", "ExitCode": 0, **changes}


def test_containers_are_parsed_from_the_output_of_compose(docker: Path) -> None:
    lines = [container(Name="p-b-1", State="exited", Health="", ExitCode=137), container(Name="p-a-1")]
    set_output(docker, "\n".join(map(json.dumps, lines)) + "\n")
    found = Compose(project="p").containers("processor")
    assert found == [
        Container(ID, "p-a-1", "processor", "running", "healthy", 0),
        Container(ID, "p-b-1", "processor", "exited", "", 137),
    ]
    assert found[0].worker_prefix == "0123456789ab-"
    assert calls(docker)[-1].startswith("compose --file docker-compose.yaml --project-name p ps --all")


def test_scale_changes_only_its_service(docker: Path) -> None:
    Compose(files=["a.yaml", "b.yaml"]).scale("processor", 4)
    assert calls(docker) == [
        "compose --file a.yaml --file b.yaml up --detach --no-deps --no-recreate --scale processor=4 processor"
    ]


def test_up_waits_for_health(docker: Path) -> None:
    Compose().up("relay", scale={"processor": 3})
    assert calls(docker) == ["compose --file docker-compose.yaml up --detach --wait --scale processor=3 relay"]


def test_commands_to_a_container_use_its_id(docker: Path) -> None:
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


def test_logs_since_a_time(docker: Path) -> None:
    set_output(docker, "processor-1  | hello\n")
    assert Compose().logs("processor", since="10m", tail=5) == "processor-1  | hello\n"
    assert calls(docker)[-1].endswith("logs --no-color --since 10m --tail 5 processor")


def test_an_error_has_the_command_its_exit_code_and_its_output(docker: Path) -> None:
    set_output(docker, "no such service: unknown", 14)
    with pytest.raises(
        ComposeError, match=r"docker compose .* restart unknown: exit code 14\nno such service: unknown"
    ):
        Compose().restart("unknown")


def test_a_command_that_does_not_end_is_killed(docker: Path) -> None:
    docker.write_text("#!/bin/sh\nexec sleep 30\n")
    with pytest.raises(ComposeError, match=r"still running after 0\.2 s"):
        Compose().run("ps", timeout=0.2)


def test_a_missing_docker_command_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ComposeError, match="there is no `docker` command on this machine"):
        Compose().containers()
