"""Clients ignore variables and files for other programs: proxies, profiles, services, files of the home folder."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from filemill.config.settings import as_environment
from tests.acceptance.command import filemill
from tests.integration.harness import PipelineHarness
from tests.integration.test_rest_process import dashboard

ROLES = ("relay", "sync", "processor")


@pytest.fixture
def dead() -> Iterator[str]:
    """An address without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def hostile(dead: str, tmp_path: Path) -> dict[str, str]:
    """An environment that breaks each client that uses any of it."""
    home = tmp_path / "user"
    for name, text in (
        (
            ".aws/config",
            "[default]\nregion = mars-east-1\nendpoint_url = http://nowhere.invalid\nnot an ini file\n[profile",
        ),
        (".aws/credentials", "[default]\naws_access_key_id = theirs\naws_secret_access_key = theirs\n"),
        (".pgpass", "*:*:*:*:wrong\n"),
        (".pg_service.conf", "[theirs]\nhost=nowhere.invalid\n"),
        (".postgresql/root.crt", "not a certificate"),
        (".postgresql/postgresql.crt", "not a certificate"),
        (".netrc", "machine 127.0.0.1 login theirs password theirs\n"),
    ):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
        (home / name).chmod(0o600)
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), f"http://{dead}")
    nothing = str(tmp_path / "nothing")
    return {
        "HOME": str(home),
        **proxies,
        **{name.lower(): value for name, value in proxies.items()},
        "NO_PROXY": "",
        "no_proxy": "",
        "AWS_PROFILE": "work",
        "AWS_DEFAULT_PROFILE": "work",
        "AWS_CONFIG_FILE": str(home / ".aws/config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / ".aws/credentials"),
        "AWS_ENDPOINT_URL": f"http://{dead}",
        "AWS_ENDPOINT_URL_S3": f"http://{dead}",
        "AWS_DEFAULT_REGION": "mars-east-1",
        "AWS_CA_BUNDLE": nothing,
        "AWS_SESSION_TOKEN": "theirs",
        "AWS_TOKEN": "theirs",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_USE_FIPS_ENDPOINT": "true",
        "AWS_USE_DUALSTACK_ENDPOINT": "true",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        "AWS_SERVER_SIDE_ENCRYPTION": "aws:kms",
        "AWS_SSE_KMS_KEY_ID": "theirs",
        "AWS_MAX_ATTEMPTS": "nonsense",
        "AWS_PROXY_URL": f"http://{dead}",
        "REQUESTS_CA_BUNDLE": nothing,
        "CURL_CA_BUNDLE": nothing,
        "SSL_CERT_FILE": nothing,
        "SSL_CERT_DIR": nothing,
        "PGHOST": "nowhere.invalid",
        "PGHOSTADDR": "192.0.2.1",
        "PGPORT": "1",
        "PGUSER": "theirs",
        "PGPASSWORD": "theirs",
        "PGDATABASE": "theirs",
        "PGSERVICE": "theirs",
        "PGSSLMODE": "require",
        "PGSSLNEGOTIATION": "direct",
        "PGGSSENCMODE": "require",
        "PGREQUIREAUTH": "gss",
        "PGCHANNELBINDING": "require",
        "PGTARGETSESSIONATTRS": "standby",
        "PGOPTIONS": "-c default_transaction_read_only=on",
        "PGTZ": "Mars/Phobos",
        "PGDATESTYLE": "nonsense",
        "PGCLIENTENCODING": "LATIN1",
        "PGCONNECT_TIMEOUT": "nonsense",
    }


def test_commands_and_workers_ignore_the_environment_of_the_shell(
    harness: PipelineHarness, hostile: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {**hostile, **as_environment(harness.settings)}
    with contextlib.ExitStack() as running:
        with monkeypatch.context() as theirs:  # for what is started here, not for the test's own clients
            for name, value in given.items():
                theirs.setenv(name, value)
            harness.start(*ROLES)
            _, url = running.enter_context(dashboard(harness.settings, tmp_path))
        rest = running.enter_context(httpx.Client(base_url=url, trust_env=False, timeout=20))
        file_id = rest.post("/api/files", json={"title": "文件"}).raise_for_status().json()["id"]
        assert rest.get("/readyz").status_code == 200, rest.get("/readyz").text
        done = filemill("submit", "Größe", "--count", "5", "--wait", home=tmp_path, environment=given)
        assert done.returncode == 0, done.stderr
        harness.wait_for([file_id])
        assert rest.get(f"/api/files/{file_id}/download").status_code == 200
    assert harness.file(file_id).title == "文件"
    for words in (("download", str(file_id), "-o", "-"), ("verify",), ("delete", str(file_id), "--yes")):
        done = filemill(*words, home=tmp_path, environment=given)
        assert done.returncode == 0, f"{words}: {done.stderr}"
    doctor = filemill("doctor", home=tmp_path, environment=given)
    assert not [line for line in doctor.stdout.splitlines() if "MISSING" in line], doctor.stdout
    harness.assert_clean()
