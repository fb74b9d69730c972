"""The home folder, its lock, its logs, and the texts of errors."""

import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

from filemill.runtime.stack_state import ProcessRef, StackState, write_state
from filemill_infra.embedded import logs
from filemill_infra.embedded.down import down
from filemill_infra.embedded.errors import EmbeddedError, HomeError, HomeInUseError
from filemill_infra.embedded.home import HomeLock, lock_holder, prepare_home, remove_home


def test_an_error_has_a_problem_a_place_and_advice() -> None:
    error = EmbeddedError("It failed", where="here", log=["line 1", "line 2"], advice="try again.")
    assert str(error) == "It failed (here)\n    line 1\n    line 2\nWhat to do: try again."


def test_a_home_that_is_a_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(HomeError, match="is a file"):
            prepare_home(home)


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EROFS, "read-only"), (errno.ENOSPC, "full"), (errno.EACCES, "another user")]
)
def test_a_home_that_is_not_writable_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def fail(**_options: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    with pytest.raises(HomeError, match=words) as caught:
        prepare_home(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_home_is_private_even_if_an_earlier_version_created_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    prepare_home(home)
    HomeLock(home).release()
    folders = [home, home / "logs", home / "kafka", home / "s3"]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}
    for folder in folders:
        folder.chmod(0o755)
    prepare_home(home)
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}


def test_a_shared_folder_keeps_its_mode_and_its_subfolders_are_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "other").write_text("")
    prepare_home(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "kafka").stat().st_mode) == 0o700


def test_a_second_lock_is_rejected_with_the_holder_and_its_page(tmp_path: Path) -> None:
    lock = HomeLock(tmp_path)
    own = ProcessRef.of(os.getpid())
    write_state(
        StackState(
            home=str(tmp_path), supervisor=own, started_at="", settings={}, servers=[], workers=[], page="http://page"
        )
    )
    with pytest.raises(HomeInUseError, match=f"pid {own.pid}, http://page") as caught:
        HomeLock(tmp_path)
    assert (caught.value.pid, caught.value.page) == (own.pid, "http://page")
    assert lock_holder(tmp_path) == own
    with pytest.raises(HomeInUseError):
        remove_home(tmp_path)
    lock.release()
    HomeLock(tmp_path).release()


def test_down_without_a_stack_does_nothing(tmp_path: Path) -> None:
    assert down(tmp_path / "absent").outcome == "nothing"
    assert not (tmp_path / "absent").exists()
    assert down(tmp_path).outcome == "nothing"


def test_a_home_can_be_removed(tmp_path: Path) -> None:
    home = prepare_home(tmp_path / "home")
    remove_home(home)
    remove_home(home)
    assert not home.exists()


def test_a_log_that_is_too_long_is_rotated_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    with logs.open_log(path) as writer:
        writer.write(b"old\n" * 10)
        assert not logs.trim(path, limit=40)
        assert logs.trim(path, limit=39)
        writer.write(b"new\n")
    assert path.read_bytes() == b"new\n"
    assert (tmp_path / "a.log.1").read_bytes() == b"old\n" * 10


def test_the_tail_of_a_log_begins_after_the_given_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"1\n2\n\n3 \xff\n")
    assert logs.tail(path, lines=2) == ["2", "3 \ufffd"]
    assert logs.tail(path, since=2) == ["2", "3 \ufffd"]
    assert logs.tail(path, since=1000) == ["1", "2", "3 \ufffd"]
    assert logs.tail(tmp_path / "absent") == []
