"""`filemill doctor` shows what is missing and how to correct it, within a bounded time."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

from filemill.config.settings import Settings
from filemill.entrypoints import doctor
from filemill.entrypoints.doctor import DoctorCheck, examine
from filemill.runtime.stack_state import ProcessRef, StackState, write_state

UNREACHABLE = {
    "FILEMILL_KAFKA_BROKER": "127.0.0.1:1",
    "FILEMILL_DATABASE_HOST": "127.0.0.1",
    "FILEMILL_DATABASE_PORT": "1",
    "FILEMILL_S3_ENDPOINT": "http://127.0.0.1:1",
}


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FILEMILL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def _servers_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in UNREACHABLE.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def _servers_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def well(name: str) -> Callable[[Settings], DoctorCheck]:
        return lambda _settings: DoctorCheck(name, True, "well")

    for name in ("postgres", "kafka", "s3"):
        monkeypatch.setattr(doctor, f"_{name}", well(name))


def _found() -> dict[str, DoctorCheck]:
    return {check.name: check for check in examine()}


@pytest.mark.usefixtures("_servers_unreachable")
def test_each_unreachable_server_is_named_with_a_remedy_within_ten_seconds() -> None:
    began = time.monotonic()
    found = _found()
    assert time.monotonic() - began < 10
    for name, address in (("PostgreSQL", "127.0.0.1:1"), ("Kafka", "127.0.0.1:1"), ("S3", "http://127.0.0.1:1")):
        assert found[name].ok is False
        assert address in found[name].found
        assert "filemill up" in found[name].remedy
        assert "FILEMILL_" in found[name].remedy


@pytest.mark.usefixtures("_servers_reachable")
def test_nothing_is_missing_if_all_servers_are_reachable() -> None:
    found = _found()
    assert not [check for check in found.values() if check.ok is False]
    assert found["Python"].ok
    assert found["embedded stack"].ok is None
    assert "filemill up" in found["embedded stack"].remedy


@pytest.mark.usefixtures("_servers_reachable")
def test_every_missing_thing_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: _Usage(1, 1, 0))
    monkeypatch.setattr(doctor, "MIN_PYTHON", (99, 0))
    missing = [check for check in examine() if check.ok is False]
    assert {check.name for check in missing} == {"Python", "home"}
    assert all(check.remedy for check in missing)


@pytest.mark.usefixtures("_servers_reachable")
def test_missing_embedded_servers_are_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "EMBEDDED_PACKAGES", {"no-such-package-at-all": "Java"})
    check = _found()["embedded Java"]
    assert check.ok is None
    assert "filemill[embedded]" in check.remedy


@pytest.mark.usefixtures("_servers_reachable")
def test_a_home_that_does_not_exist_is_checked_by_its_parent(home: Path) -> None:
    assert _found()["home"].ok
    assert not home.exists(), "the check creates nothing"


@pytest.mark.usefixtures("_servers_reachable")
def test_a_home_below_a_file_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.write_text("a file")
    monkeypatch.setenv("FILEMILL_HOME", str(home / "below"))
    check = _found()["home"]
    assert check.ok is False
    assert "FILEMILL_HOME" in check.remedy


@pytest.mark.usefixtures("_servers_reachable")
def test_a_full_disk_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: _Usage(1, 1, 1024**3))
    check = _found()["home"]
    assert check.ok is False
    assert "1.0 GiB" in check.found


@pytest.mark.usefixtures("_servers_reachable")
def test_a_running_stack_is_reported(home: Path) -> None:
    home.mkdir()
    here = ProcessRef.of(os.getpid())
    write_state(
        StackState(
            home=str(home), supervisor=here, started_at="", settings={}, servers=[], workers=[], page="http://page"
        )
    )
    check = _found()["embedded stack"]
    assert check.ok
    assert "http://page" in check.found


def test_invalid_settings_are_reported_and_no_server_is_contacted(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_settings: Settings) -> NoReturn:
        raise AssertionError

    for name in ("postgres", "kafka", "s3"):
        monkeypatch.setattr(doctor, f"_{name}", never)
    monkeypatch.setenv("FILEMILL_PORT", "not a port")
    check = _found()["settings"]
    assert check.ok is False
    assert "FILEMILL_PORT" in check.found
    assert check.remedy
