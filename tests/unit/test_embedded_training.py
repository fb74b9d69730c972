"""The class cache of Kafka's JVM: optional, and created once."""

import fcntl
from collections.abc import Sequence
from pathlib import Path

import pytest

from filemill_infra.embedded.errors import CancelledError, StartError
from filemill_infra.embedded.ports import PortAllocator
from filemill_infra.embedded.processes.commands import ServerContext
from filemill_infra.embedded.servers import kafka_training


class _Training:
    """Replaces the training run, which takes ten seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs = 0
        self.error: Exception | None = None
        monkeypatch.setattr(kafka_training, "_train", self._train)

    def _train(self, scratch: Path, *_rest: object) -> Path:
        self.runs += 1
        (scratch / "incomplete").write_text("")
        if self.error:
            raise self.error
        (scratch / "kafka.aot").write_text("classes")
        return scratch / "kafka.aot"


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> _Training:
    return _Training(monkeypatch)


@pytest.fixture
def jars(tmp_path: Path) -> Sequence[Path]:
    (tmp_path / "cache").mkdir()
    return [tmp_path / "cache" / "kafka.jar"]


def _trained(jars: Sequence[Path]) -> Path | None:
    home = jars[0].parent.parent
    context = ServerContext(home=home, ports=PortAllocator(home, defaults=False))
    return kafka_training.trained_cache(jars, context, home / "log")


def test_the_cache_is_created_once(training: _Training, jars: Sequence[Path]) -> None:
    (jars[0].parent / "training-killed").mkdir()
    first, again = _trained(jars), _trained(jars)
    assert first is not None
    assert first == again
    assert first.read_text() == "classes"
    assert training.runs == 1
    assert not list(jars[0].parent.glob("training-*"))


def test_a_failed_training_run_is_not_repeated(training: _Training, jars: Sequence[Path]) -> None:
    training.error = StartError("this JVM cannot")
    assert _trained(jars) is None
    assert _trained(jars) is None
    assert training.runs == 1


def test_a_cancelled_training_run_is_repeated(training: _Training, jars: Sequence[Path]) -> None:
    training.error = CancelledError()
    with pytest.raises(CancelledError):
        _trained(jars)
    training.error = None
    assert _trained(jars) is not None
    assert not list(jars[0].parent.glob("training-*"))


def test_of_two_concurrent_starts_one_creates_the_cache(training: _Training, jars: Sequence[Path]) -> None:
    with (jars[0].parent / ".training").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert _trained(jars) is None
    assert training.runs == 0
    assert _trained(jars) is not None
