"""REST while servers are unreachable: health checks, and requests accepted as long as PostgreSQL is reachable."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

import filemill
from filemill.config.settings import Settings
from tests.integration.rest import serving

PATIENCE_SECONDS = 1.0


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never responds, like a host whose connection was cut."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_readyz_is_200_if_all_servers_are_ready(settings: Settings) -> None:
    with serving(settings) as rest:
        assert rest.client.get("/healthz").json() == {"status": "ok", "version": filemill.__version__}
        answer = rest.client.get("/readyz")
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "ok"
        assert {name: server["ok"] for name, server in answer.json()["servers"].items()} == {
            "postgres": True,
            "kafka": True,
            "s3": True,
        }


@pytest.mark.parametrize(
    "headers",
    [{"X-Forwarded-For": "127.0.0.1"}, {"Forwarded": "for=127.0.0.1"}, {"Via": "1.1 p"}, {"Host": "files.example"}],
)
def test_readyz_shows_addresses_only_to_this_machine(headers: dict[str, str], settings: Settings) -> None:
    port = closed_port()
    changed = settings.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{port}", "allowed_hosts": "files.example"})
    with serving(changed) as rest:
        answer = rest.client.get("/readyz", headers=headers)
        assert answer.status_code == 503
        assert answer.json()["servers"] == {
            "postgres": {"server": "postgres", "ok": True},
            "kafka": {"server": "kafka", "ok": True},
            "s3": {"server": "s3", "ok": False},
        }
        assert "127.0.0.1" not in answer.text
        assert str(port) in rest.client.get("/readyz").text


@pytest.mark.parametrize(
    ("server", "changes"),
    [
        ("postgres", {"database_port": "{port}"}),
        ("kafka", {"kafka_broker": "127.0.0.1:{port}"}),
        ("s3", {"s3_endpoint": "http://127.0.0.1:{port}"}),
    ],
)
def test_readyz_names_the_unreachable_server_and_a_remedy(
    server: str, changes: dict[str, str], settings: Settings
) -> None:
    port = str(closed_port())
    values = {name: value.format(port=port) for name, value in changes.items()}
    values = {name: int(value) if name == "database_port" else value for name, value in values.items()}  # type: ignore[misc]
    changed = settings.model_copy(update={**values, "server_timeout_seconds": PATIENCE_SECONDS})
    with serving(changed) as rest:
        assert rest.client.get("/healthz").status_code == 200
        started = time.monotonic()
        answer = rest.client.get("/readyz")
        assert time.monotonic() - started < PATIENCE_SECONDS + 2
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        body = answer.json()
        assert body["status"] == "unavailable"
        assert {name for name, state in body["servers"].items() if not state["ok"]} == {server}
        state = body["servers"][server]
        assert port in state["address"]
        assert state["code"] == "unreachable"
        assert state["problem"]
        assert "check FILEMILL_" in state["advice"]
        assert settings.database_password.get_secret_value() not in answer.text


@pytest.mark.parametrize(
    ("changes", "server", "code", "advice"),
    [
        ({"s3_bucket": "no-such-bucket"}, "s3", "bucket-missing", "no-such-bucket"),
        ({"topic_created": "no.such.topic"}, "kafka", "topics-missing", "filemill topics create"),
        ({"database_name": "postgres"}, "postgres", "schema-missing", "filemill migrate"),
    ],
)
def test_readyz_names_the_missing_set_up_step(
    changes: dict[str, str], server: str, code: str, advice: str, settings: Settings
) -> None:
    with serving(settings.model_copy(update=changes)) as rest:
        answer = rest.client.get("/readyz")
        assert answer.status_code == 503
        state = answer.json()["servers"][server]
        assert state["code"] == code
        assert advice in state["advice"]


def test_a_request_without_postgres_is_503_at_once(settings: Settings) -> None:
    with serving(settings.model_copy(update={"database_port": closed_port()})) as rest:
        started = time.monotonic()
        for answer in (
            rest.client.post("/api/files", json={"title": "a"}),
            rest.client.get("/api/files"),
            rest.client.get("/api/files/1"),
            rest.client.get("/api/files/1/download"),
        ):
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "unavailable"
            assert "PostgreSQL at postgresql://" in answer.json()["error"]["message"]
            assert int(answer.headers["retry-after"]) > 0
        assert time.monotonic() - started < 5
        # A wrong request is wrong all the same.
        assert rest.client.post("/api/files", json={"title": ""}).status_code == 422


def test_a_hanging_postgres_is_503_after_the_timeout(settings: Settings, silent_port: int) -> None:
    changed = settings.model_copy(update={"database_port": silent_port, "server_timeout_seconds": PATIENCE_SECONDS})
    with serving(changed) as rest:
        started = time.monotonic()
        answer = rest.client.post("/api/files", json={"title": "a"})
        assert answer.status_code == 503
        assert time.monotonic() - started < PATIENCE_SECONDS + 1
        assert rest.client.get("/healthz").status_code == 200


def test_requests_are_accepted_without_kafka(settings: Settings) -> None:
    with serving(settings.model_copy(update={"kafka_broker": f"127.0.0.1:{closed_port()}"})) as rest:
        answer = rest.client.post("/api/files", json={"title": "kept for later"})
        assert answer.status_code == 201
        assert rest.client.get("/api/files").json()["items"][0]["title"] == "kept for later"


def test_without_s3_only_downloads_fail(settings: Settings, silent_port: int) -> None:
    for port in (closed_port(), silent_port):
        changes = {"s3_endpoint": f"http://127.0.0.1:{port}", "server_timeout_seconds": PATIENCE_SECONDS}
        with serving(settings.model_copy(update=changes)) as rest:
            file_id = rest.create("a")
            _complete(rest.services, file_id)
            answer = rest.client.get(f"/api/files/{file_id}/download")
            assert answer.status_code == 503
            assert f":{port}" in answer.json()["error"]["message"]


def test_a_slow_client_does_not_delay_others(settings: Settings) -> None:
    with serving(settings) as rest:
        port = rest.client.base_url.port
        begun = threading.Event()
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(b"POST /api/files HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            begun.set()
            assert rest.client.post("/api/files", json={"title": "quick"}).status_code == 201


def _complete(services: object, file_id: int) -> None:
    import sqlalchemy as sa  # noqa: PLC0415

    from filemill_dashboard.state.services import Services  # noqa: PLC0415

    assert isinstance(services, Services)
    with services.connect() as connection:
        connection.execute(
            sa.text("UPDATE files SET status = 'completed', s3_location = 'x.txt' WHERE id = :id"), {"id": file_id}
        )
        connection.commit()
