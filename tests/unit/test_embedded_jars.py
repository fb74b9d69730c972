"""The download of Apache Kafka: complete or not at all."""

import hashlib
from pathlib import Path

import pytest

from filemill_infra.embedded.errors import CancelledError, DownloadError
from filemill_infra.embedded.servers import jars
from filemill_infra.embedded.servers.jars import DownloadProgress, Jar


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Jar]:
    """A lock file with three small jars."""
    made = [Jar("org.example", f"part-{n}", "1.0", hashlib.sha256(b"jar %d" % n).hexdigest()) for n in range(3)]
    lock = tmp_path / "kafka.lock"
    lock.write_text("# head\n" + "".join(f"{one.group}:{one.artifact}:1.0 {one.sha256}\n" for one in made))
    monkeypatch.setattr(jars, "LOCK", lock)
    return made


def _store(jar: Jar, staging: Path) -> int:
    return (staging / jar.file).write_bytes(b"jar %s" % jar.artifact[-1].encode())


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A registry with all jars; the names of the requested ones."""
    requested: list[str] = []

    def fetch(jar: Jar, staging: Path) -> int:
        (staging / "repository").mkdir(exist_ok=True)
        requested.append(jar.file)
        return _store(jar, staging)

    monkeypatch.setattr(jars, "fetch", fetch)
    return requested


def test_the_lock_file_pins_kafkas_jars() -> None:
    pinned = {jar.artifact: jar.version for jar in jars.locked_jars(Path(jars.__file__).with_name("kafka.lock"))}
    assert pinned["kafka_2.13"] == pinned["kafka-clients"] == pinned["kafka-server"] == jars.KAFKA_VERSION
    assert "log4j-slf4j-impl" in pinned


def test_jars_are_downloaded_once(tmp_path: Path, locked: list[Jar], registry: list[str]) -> None:
    progress: list[DownloadProgress] = []
    first = jars.installed_jars(tmp_path / "cache", progress.append)
    again = jars.installed_jars(tmp_path / "cache", progress.append)
    assert first == again
    assert [path.read_bytes() for path in first] == [b"jar 0", b"jar 1", b"jar 2"]
    assert sorted(registry) == [jar.file for jar in locked]
    assert progress[0] == DownloadProgress(0, 3, 0)
    assert progress[-1] == DownloadProgress(3, 3, 15)


@pytest.mark.usefixtures("locked")
def test_a_failed_download_leaves_no_folder(
    tmp_path: Path, registry: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(jar: Jar, staging: Path) -> int:
        if jar.artifact == "part-2":
            raise DownloadError("the connection was closed")
        return _store(jar, staging)

    with monkeypatch.context() as patch:
        patch.setattr(jars, "fetch", fail)
        with pytest.raises(DownloadError, match="closed"):
            jars.installed_jars(tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []
    assert len(jars.installed_jars(tmp_path / "cache")) == len(registry) == 3


@pytest.mark.usefixtures("locked", "registry")
def test_an_incomplete_download_of_a_killed_process_is_not_used(tmp_path: Path) -> None:
    whole = jars.installed_jars(tmp_path / "other")[0].parent
    half = tmp_path / "cache" / f"{whole.name}.partial-killed"
    half.mkdir(parents=True)
    (half / "part-0-1.0.jar").write_bytes(b"ja")
    assert jars.installed_jars(tmp_path / "cache")[0].read_bytes() == b"jar 0"
    assert not half.exists()


@pytest.mark.usefixtures("locked", "registry")
def test_a_download_can_be_cancelled(tmp_path: Path) -> None:
    def cancel(_progress: DownloadProgress) -> None:
        raise CancelledError

    with pytest.raises(CancelledError):
        jars.installed_jars(tmp_path / "cache", cancel)
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


@pytest.mark.usefixtures("locked")
def test_an_unreachable_registry_is_an_error_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jgo.constants.MAVEN_CENTRAL_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(DownloadError, match="could not be downloaded") as caught:
        jars.installed_jars(tmp_path / "cache")
    assert "http://127.0.0.1:9" in caught.value.where
    assert "HTTPS_PROXY" in caught.value.advice


def test_a_cache_that_is_not_writable_is_an_error_with_advice(tmp_path: Path, locked: list[Jar]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="could not be stored") as caught:
        jars.installed_jars(tmp_path / "file" / "cache")
    assert "XDG_CACHE_HOME" in caught.value.advice


def test_the_cache_is_in_the_home_if_the_user_has_no_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jars, "default_cache", lambda: Path("~/.cache/filemill"))
    assert jars.usable_cache(tmp_path) == tmp_path / "cache"


def test_the_cache_follows_the_xdg_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert jars.usable_cache(tmp_path / "home") == tmp_path / "filemill"
