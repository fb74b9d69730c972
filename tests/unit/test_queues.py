"""Requests of handlers and queues: the fields of a record, the choice of a queue, and the settings of queues."""

import json
from datetime import UTC, datetime

import msgspec
import pytest

from filemill.config.settings import InvalidSettings, as_environment, load
from filemill.domain.handlers import HandlerSpec, check_inputs
from filemill.domain.messages import FileCreate, FileCreated, decode, decode_create, encode
from filemill.domain.queues import Queue, choose_queue
from filemill.errors import InvalidMessage, InvalidRequest

AT = datetime(2026, 1, 1, tzinfo=UTC)
KNOWN = {"default", "jobs", "urgent"}


def test_a_text_request_has_the_four_fields_of_the_reference_design_only() -> None:
    value = encode(FileCreate(7, "A title", "", AT))
    assert value == b'{"fileId":7,"title":"A title","description":"","timestamp":"2026-01-01T00:00:00.000Z"}'
    request = decode_create(value)
    assert (request.handler, bytes(request.parameters), request.inputs) == ("text", b"{}", {})


def test_a_result_of_the_default_queue_names_no_queue() -> None:
    result = FileCreated(file_id=7, status="failed", timestamp=AT)
    assert set(json.loads(encode(result))) == {"fileId", "status", "timestamp"}
    named = msgspec.structs.replace(result, queue="bulk")
    assert decode(encode(named), FileCreated).queue == "bulk"


def test_handler_parameters_and_inputs_survive_a_round_trip() -> None:
    request = FileCreate(7, "A title", "", AT, "invoice", msgspec.Raw(b'{"lines": [1.50, "\\u00e9"]}'), {"logo": "k"})
    again = decode_create(encode(request))
    assert (again.handler, again.inputs) == ("invoice", {"logo": "k"})
    assert bytes(again.parameters) == b'{"lines": [1.50, "\\u00e9"]}'
    assert not again.plain


@pytest.mark.parametrize(
    "wrong",
    [
        {"handler": "No Name"},
        {"handler": 5},
        {"parameters": [1]},
        {"parameters": "text"},
        {"parameters": {"a": "x" * 262_144}},
        {"inputs": {"a/b": "k"}},
        {"inputs": {"a": ""}},
        {"inputs": {"a": "k" * 1025}},
        {"inputs": {str(number): "k" for number in range(21)}},
    ],
)
def test_a_record_with_an_invalid_job_is_rejected(wrong: dict[str, object]) -> None:
    document = {"fileId": 7, "title": "A title", "description": "", "timestamp": "2026-01-01T00:00:00Z", **wrong}
    with pytest.raises(InvalidMessage):
        decode_create(json.dumps(document).encode())


def test_an_input_needs_a_printable_name_and_key() -> None:
    assert check_inputs({"logo": "file-1-2.txt"}) == {"logo": "file-1-2.txt"}
    for inputs in ({"": "k"}, {"a\n": "k"}, {"a": "k\0"}, {"a": "\ud800"}):
        with pytest.raises(InvalidRequest):
            check_inputs(inputs)


def test_a_handler_spec_is_announced_in_camel_case() -> None:
    spec = HandlerSpec(name="invoice", content_type="application/pdf", max_concurrency=2)
    document = json.loads(msgspec.json.encode(spec))
    assert (document["contentType"], document["maxConcurrency"]) == ("application/pdf", 2)
    assert msgspec.json.decode(msgspec.json.encode(spec), type=HandlerSpec) == spec


@pytest.mark.parametrize(
    ("asked", "handler", "of_handler", "inputs", "expected"),
    [
        (None, "text", None, False, "default"),
        (None, "text", None, True, "jobs"),
        (None, "invoice", None, False, "jobs"),
        (None, "invoice", "urgent", False, "urgent"),
        ("urgent", "text", None, False, "urgent"),
        ("urgent", "invoice", "jobs", False, "urgent"),
        ("default", "text", None, False, "default"),
    ],
)
def test_only_what_a_foreign_worker_can_do_goes_to_the_default_queue(
    asked: str | None, handler: str, of_handler: str | None, inputs: bool, expected: str
) -> None:
    assert choose_queue(asked, handler, of_handler, inputs=inputs, known=KNOWN) == expected


@pytest.mark.parametrize(
    ("asked", "handler", "inputs"),
    [("nowhere", "text", False), ("default", "invoice", False), ("default", "text", True)],
)
def test_a_request_for_a_queue_that_cannot_take_it_is_refused(asked: str, handler: str, inputs: bool) -> None:
    with pytest.raises(InvalidRequest) as caught:
        choose_queue(asked, handler, None, inputs=inputs, known=KNOWN)
    assert caught.value.field == "queue"


def test_the_default_queues_have_the_topics_and_groups_of_the_design() -> None:
    found = {name: (queue.topic, queue.group) for name, queue in load().all_queues.items()}
    assert found == {
        "default": ("file.create", "file-service-group"),
        "jobs": ("file.create.jobs", "file-service-group-jobs"),
        "urgent": ("file.create.urgent", "file-service-group-high-priority"),
        "bulk": ("file.create.bulk", "file-service-group-bulk"),
    }
    assert load().all_queues["urgent"].reserved == 1


def test_a_processor_serves_all_queues_or_those_that_are_named() -> None:
    assert set(load().served_queues) == {"default", "jobs", "urgent", "bulk"}
    assert set(load(queues="urgent, bulk").served_queues) == {"urgent", "bulk"}


def test_the_settings_of_a_queue_have_its_topic_and_group() -> None:
    settings = load(topic_create="t", kafka_group="g").of_queue("bulk")
    assert (settings.topic_create, settings.kafka_group, settings.group_id) == ("t.bulk", "g-bulk", "g-bulk")
    assert settings.all_queues == load(topic_create="t", kafka_group="g").all_queues


def test_queues_are_configured_as_json_and_passed_to_child_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = '{"default": {}, "night": {"topic": "at-night", "group": "owls", "weight": 3, "reserved": 2}}'
    monkeypatch.setenv("FILEMILL_QUEUES_CONFIG", config)
    settings = load()
    assert settings.all_queues["night"] == Queue("night", "at-night", "owls", 3, 2)
    monkeypatch.setenv("FILEMILL_QUEUES_CONFIG", as_environment(settings)["FILEMILL_QUEUES_CONFIG"])
    assert load().all_queues == settings.all_queues


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"queues_config": {"jobs": {}}}, "value_error"),
        ({"queues_config": {"default": {}, "Bad Name": {}}}, "value_error"),
        ({"queues_config": {"default": {"weight": 0}}}, "greater_than_equal"),
        ({"queues_config": {"default": {"color": "red"}}}, "extra_forbidden"),
        ({"queues_config": {"default": {"topic": "elsewhere"}}}, "default_queue_elsewhere"),
        ({"queues_config": {"default": {}, "a": {"topic": "file.created"}}}, "topic_twice"),
        ({"queues_config": {"default": {}, "a": {"group": "g"}, "b": {"group": "g"}}}, "queue_group_shared"),
        ({"queues": "default,nowhere"}, "unknown_queue"),
    ],
)
def test_invalid_queues_are_rejected(given: dict[str, object], code: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load(**given)
    assert code in caught.value.codes
