"""The decorator, the types of parameters, and the search for handlers."""

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from filemill.errors import DeadLetterCode, InvalidHandler, PermanentError
from filemill.handlers import Handler, Job, handler
from filemill.handlers.registry import HandlerSources, load_handlers


class Invoice(msgspec.Struct):
    number: str
    total: int = 0


class Order(BaseModel):
    number: str


def make(name: str = "invoice", **options: Any) -> Handler:
    options = dict[str, Any](content_type="application/pdf", extension="pdf", deterministic=True) | options

    @handler(name, **options)
    def invoice(job: Job[Invoice]) -> bytes:
        return job.parameters.number.encode()

    return invoice


def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> str:
    (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


DEFINED = """
from filemill.handlers import Job, handler
@handler("{name}", content_type="text/plain", extension="txt", deterministic=True)
def function(job: Job{parameters}) -> bytes:
    return b""
"""


def test_a_handler_announces_its_schema_and_its_limits() -> None:
    spec = make(timeout=120, memory="512 MiB", version="3", attempts=2).spec()
    assert (spec.name, spec.version, spec.timeout, spec.memory, spec.attempts) == ("invoice", "3", 120.0, 2**29, 2)
    assert spec.schema["$defs"]["Invoice"]["required"] == ["number"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "Invoice"}, "Invoice"),
        ({"name": "text"}, "belongs to the text of the reference design"),
        ({"extension": "p/f"}, "extension"),
        ({"content_type": "pdf"}, "not a content type"),
        ({"timeout": 0}, "timeout"),
        ({"memory": "much"}, 'Write it as "512 MiB"'),
        ({"attempts": 0}, "attempts"),
    ],
)
def test_a_wrong_definition_names_the_handler_and_the_reason(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidHandler, match=words) as caught:
        make(**options)
    assert f'"{options.get("name", "invoice")}"' in str(caught.value)


def test_parameters_are_read_into_their_type() -> None:
    assert make().parameters.decode(b'{"number": "7"}') == Invoice("7")

    @handler("order", content_type="text/plain", extension="txt", deterministic=True)
    def order(job: Job[Order]) -> bytes:
        return b""

    assert order.parameters.decode(b'{"number": "7"}') == Order(number="7")
    assert order.parameters.schema["required"] == ["number"]
    for one in (make(), order):
        with pytest.raises(PermanentError, match="number") as caught:
            one.parameters.decode(b"{}")
        assert caught.value.code is DeadLetterCode.PARAMETERS_INVALID


def test_parameters_without_a_schema_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, parameters in enumerate(("[object]", "[lambda: 0]", "[set[complex]]", "[Missing]")):
        name = module(
            tmp_path, monkeypatch, f"unserialisable{number}", DEFINED.format(name="odd", parameters=parameters)
        )
        with pytest.raises(InvalidHandler, match=r"odd|Missing"):
            load_handlers(HandlerSources((name,)))


def test_handlers_are_found_in_modules_and_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = module(tmp_path, monkeypatch, "first_jobs", DEFINED.format(name="first", parameters=""))
    module(tmp_path, monkeypatch, "second_jobs", DEFINED.format(name="second", parameters="[dict]"))
    point = metadata.EntryPoint("second", "second_jobs:function", "filemill.handlers")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point] if group == "filemill.handlers" else [])
    found = load_handlers(HandlerSources((first,)))
    assert {"first", "second"} <= set(found.names)
    assert found.get("third") is None


def test_two_handlers_with_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [
        module(tmp_path, monkeypatch, f"{name}_jobs", DEFINED.format(name="twice", parameters="")) for name in "ab"
    ]
    with pytest.raises(InvalidHandler, match='name "twice": in the module "a_jobs" and in the module "b_jobs"'):
        load_handlers(HandlerSources(tuple(names)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import missing_library", 'module "broken_jobs" cannot be imported: ModuleNotFoundError.*missing_library'),
        ("1 / 0", "ZeroDivisionError"),
        ("x = 1", "no handler in the module"),
    ],
)
def test_a_module_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    name = module(tmp_path, monkeypatch, "broken_jobs", text)
    with pytest.raises(InvalidHandler, match=words):
        load_handlers(HandlerSources((name,)))
