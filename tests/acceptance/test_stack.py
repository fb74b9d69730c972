"""One stack from start to end and a restart, by the installed command, as the README describes it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import httpx
import psutil
import pytest

from filemill.domain.content import render
from tests.acceptance.command import (
    GONE_SECONDS,
    Stack,
    answer,
    create,
    filemill,
    stack_in,
    wait_for_file,
    wait_until,
)

HOSTILE = ["<script>alert(1)</script>", "=1+1", "[red]x[/red] [link](javascript:alert(1))", "Ünïcödé ✓ 文件"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("up") / "home"


@pytest.fixture(scope="module")
def stack(home: Path) -> Iterator[Stack]:
    with stack_in(home, "--processing-seconds", "0") as stack:
        yield stack


def test_status_shows_each_server_and_each_process(stack: Stack) -> None:
    status = stack.status()
    assert (status["running"], status["pid"], status["home"]) == (True, stack.pid, str(stack.home))
    assert set(status["servers"]) == {"kafka", "postgres", "s3"}
    assert {process["role"]: process["id"] for process in status["processes"]}.keys() == {
        "dashboard",
        "processor",
        "sync",
        "monitor",
    }
    everything = [*status["servers"].values(), *status["processes"]]
    for one in everything:
        assert one["alive"]
        assert psutil.pid_exists(one["pid"])
        assert Path(one["log"]).is_file()
    text = filemill("status", home=stack.home)
    assert text.returncode == 0
    assert status["page"] in text.stdout
    assert status["environment"] == answer("env", home=stack.home)
    for secret in secrets_of(stack.home):
        assert secret not in text.stdout


def test_no_secret_is_on_a_command_line_or_in_a_log(stack: Stack) -> None:
    secrets = secrets_of(stack.home)
    for process in stack.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            line = " ".join(process.cmdline())
            assert not [secret for secret in secrets if secret in line]
    for log in (stack.home / "logs").iterdir():
        text = log.read_text(errors="replace")
        assert not [secret for secret in secrets if secret in text], log


def test_processes_listen_on_loopback_only_and_files_are_private(stack: Stack) -> None:
    listening = {
        one.laddr.ip.removeprefix("::ffff:")
        for process in stack.processes()
        for one in process.net_connections("inet")
        if one.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    assert stack.home.stat().st_mode & 0o077 == 0


def test_other_programs_connect_with_what_env_prints(stack: Stack) -> None:
    """PostgreSQL by the variables of libpq, S3 by those of the AWS tools, the rest by those of the reference design."""
    program = """if True:
        import os, boto3, psycopg
        from confluent_kafka.admin import AdminClient
        bucket = os.environ["S3_BUCKET"]
        boto3.client("s3").put_object(Bucket=bucket, Key="from-env", Body=b"x")
        boto3.client("s3").delete_object(Bucket=bucket, Key="from-env")
        kafka = AdminClient({"bootstrap.servers": os.environ["KAFKA_BROKER"]})
        assert "file.create" in kafka.list_topics(timeout=10).topics
        for parameters in ("", os.environ["DATABASE_URL"]):
            with psycopg.connect(parameters) as connection:
                print(connection.execute("SELECT current_user, count(*) >= 0 FROM files").fetchone())
    """
    for options, role in (("", "fileuser"), (" --read-only", "filereader")):
        script = f'eval "$("$0" -m filemill env{options})" && exec "$0" -c "$1"'
        run = subprocess.run(
            ["sh", "-c", script, sys.executable, program],
            env={**os.environ, "FILEMILL_HOME": str(stack.home)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert run.stdout.splitlines() == [f"('{role}', True)"] * 2


def secrets_of(home: Path) -> list[str]:
    credentials = json.loads((home / "credentials.json").read_text())
    return [str(value) for value in credentials.values()]


def test_a_file_created_over_rest_can_be_downloaded_and_equals_a_fresh_render(stack: Stack, tmp_path: Path) -> None:
    row = wait_for_file(stack.page, create(stack.page, "A title", "Some text")["id"])
    target = tmp_path / "file.txt"
    assert filemill("download", str(row["id"]), "-o", str(target), home=stack.home).returncode == 0
    assert target.read_bytes() == render("A title", "Some text", datetime.fromisoformat(row["created_at"]))
    printed = filemill("download", str(row["id"]), "-o", "-", home=stack.home)
    assert printed.stdout.encode() == target.read_bytes()


def test_submit_waits_for_many_and_files_lists_them(stack: Stack) -> None:
    accepted = answer("submit", "Many", "-d", "of them", "--count", "25", "--wait", home=stack.home)
    assert (accepted["submitted"], accepted["statuses"]) == (25, {"completed": 25})
    listed = answer("files", "--status", "completed", "--search", "Many", "--limit", "10", home=stack.home)
    assert [row["id"] for row in listed["items"]] == sorted(accepted["ids"], reverse=True)[:10]
    older = answer("files", "--search", "Many", "--limit", "200", "--cursor", listed["older"], home=stack.home)
    assert len(older["items"]) == 15


def test_hostile_titles_are_printed_as_text(stack: Stack) -> None:
    for title in HOSTILE:
        create(stack.page, title)
    text = filemill("files", home=stack.home, environment={"COLUMNS": "300"}).stdout
    assert all(title in text for title in HOSTILE)


def test_verify_topics_and_doctor_report_no_problem(stack: Stack) -> None:
    for row in httpx.get(f"{stack.page}/api/files", params={"limit": 200}).raise_for_status().json()["items"]:
        wait_for_file(stack.page, row["id"])
    report = answer("verify", home=stack.home)
    assert (report["ok"], report["lost"], report["findings"]) == (True, 0, [])
    assert report["completed"] == report["submitted"] == report["objects"] > 25
    topics = answer("topics", "list", home=stack.home)
    assert topics["file.create"] == 3
    assert filemill("doctor", home=stack.home).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["submit", ""], 2, "title: must not be blank"),
        (["submit", "x", "-d", "x" * (64 * 1024 + 1)], 2, "description: must have at most 65536 bytes"),
        (["files", "--cursor", "nonsense"], 2, "cursor"),
        (["download", "999999"], 1, "there is no file 999999"),
        (["topics", "add-partitions", "2"], 2, "Kafka can only add partitions"),
        (["retry", "999999"], 1, "there is no such file"),
        (["retry", "1_0"], 2, "an id must be a whole number in the digits 0 to 9"),
        (["cancel", str(2**63)], 2, "an id must be between 1 and"),
        (["delete", "--yes", "+1"], 2, "an id must be a whole number"),
        (["download", "٣"], 2, "an id must be a whole number"),
        (["offsets", "preview", "--to", "1969-12-31T23:59:59.999+00:00"], 2, "must not be before 1970"),
        (["run", "dancer"], 2, "dancer"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_wrong_usage_ends_with_a_sentence_and_an_exit_code(
    stack: Stack, arguments: list[str], code: int, said: str
) -> None:
    run = filemill(*arguments, home=stack.home)
    assert run.returncode == code, run.stderr
    assert said in " ".join(run.stderr.replace("│", " ").split())  # a long message is broken inside its box
    assert "Traceback" not in run.stderr


def test_a_second_up_on_the_same_home_is_refused_with_the_address_of_the_first(stack: Stack) -> None:
    run = filemill("up", "--home", str(stack.home), home=stack.home)
    assert run.returncode == 1
    assert str(stack.pid) in run.stderr
    assert stack.page in run.stderr
    assert stack.status()["running"]


def test_a_port_in_use_is_refused_before_anything_starts(stack: Stack, tmp_path: Path) -> None:
    port = stack.page.rsplit(":", 1)[1]
    run = filemill("up", "--home", str(tmp_path / "other"), "--port", port, home=tmp_path / "other")
    assert run.returncode == 2
    assert port in run.stderr
    assert "--port" in run.stderr
    assert not (tmp_path / "other").exists()


def test_down_stops_all_processes_and_a_restart_keeps_the_files(stack: Stack, home: Path) -> None:
    kept = wait_for_file(stack.page, create(stack.page, "Kept")["id"])
    processes = stack.processes()
    assert len(processes) > 8
    down = filemill("down", "--home", str(home), home=home)
    assert down.returncode == 0
    assert str(stack.pid) in down.stderr
    assert stack.ended() == 0
    assert gone(stack) == []
    status = filemill("status", home=home)
    assert status.returncode == 1
    assert "filemill up" in status.stderr
    assert filemill("down", home=home).returncode == 0  # nothing runs: that is well, too
    with stack_in(home, "--processing-seconds", "0", "--workers", "1", "--auth", "token") as again:
        signed_in = check_sign_in(again)
        assert wait_for_file(again.page, kept["id"], headers=signed_in)["s3_location"] == kept["s3_location"]
        downloaded = filemill("download", str(kept["id"]), "-o", "-", home=home).stdout
        assert downloaded.encode() == render("Kept", "", datetime.fromisoformat(kept["created_at"]))
        new = create(again.page, "New", headers=signed_in)
        wait_for_file(again.page, new["id"], headers=signed_in)
        again.send(signal.SIGINT)
        assert again.ended() == 0
        assert gone(again, 0) == [], "Ctrl-C left a process behind"
        assert "Traceback" not in again.output()


def check_sign_in(stack: Stack) -> dict[str, str]:
    """Check that the page of a stack with a launch token requires it; returns the header that signs in."""
    status = stack.status()
    assert status["auth"] == "token"
    assert f"{stack.page}/sign-in?token={status['token']}" == status["sign_in"]
    assert f"Sign in at {status['sign_in']}\n" in stack.output()
    assert httpx.get(f"{stack.page}/healthz").status_code == 200
    assert httpx.get(f"{stack.page}/api/files").status_code == 401
    assert "address" not in httpx.get(f"{stack.page}/readyz").text
    with httpx.Client() as browser:
        assert browser.get(status["sign_in"]).status_code == 303
        assert browser.get(f"{stack.page}/api/files").status_code == 200
    lines = [" ".join(process.cmdline()) for process in stack.processes()]
    assert not any(status["token"] in line for line in lines)
    return {"Authorization": f"Bearer {status['token']}"}


def gone(stack: Stack, seconds: float = GONE_SECONDS) -> list[str]:
    """The processes of the stack that are left after `seconds`."""
    psutil.wait_procs(stack.processes(), timeout=seconds)
    return [f"{process.pid} {process.name()}" for process in stack.processes()]


def test_ctrl_c_during_the_start_leaves_no_process(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "home")
    try:
        wait_until((stack.home / "kafka").exists, 30, "the servers are starting")
        stack.send(signal.SIGINT)
        assert stack.ended() == 130
        assert gone(stack, 0) == []
        assert "Traceback" not in stack.output()
    finally:
        stack.close()


@pytest.mark.slow(reason="the supervisor's own tests show the same in less time")
def test_a_killed_supervisor_leaves_no_process(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with stack_in(home, "--workers", "1") as stack:
        assert len(stack.processes()) > 7
        stack.send(signal.SIGKILL)
        stack.ended()
        assert gone(stack) == [], "the watchdog left a process"
        crashed = filemill("status", home=home)
        assert crashed.returncode == 1
        assert "crashed" in crashed.stderr
        assert filemill("down", home=home).returncode == 0
        assert "crashed" not in filemill("status", home=home).stderr


def test_the_demo_succeeds() -> None:
    home = Path(os.environ["FILEMILL_HOME"])
    run = filemill("demo", "--json", home=home, timeout=110)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert {name: result[name] for name in ("submitted", "completed", "identical", "lost", "verified")} == {
        "submitted": 12,
        "completed": 12,
        "identical": 12,
        "lost": 0,
        "verified": True,
    }
    assert result["end_to_end_ms"]["p50"] < 1000
    assert result["end_to_end_ms"]["p50"] <= result["end_to_end_ms"]["p95"]
    assert result["start_seconds"] > 0
    assert "12 files submitted over REST" in run.stderr
