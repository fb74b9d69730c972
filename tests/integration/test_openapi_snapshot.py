"""REST stays compatible: its paths, parameters, schemas and status codes are those on record."""

import json
from pathlib import Path
from typing import Any

import pytest

from filemill.config.settings import Settings
from tests.integration.rest import serving

SNAPSHOT = Path(__file__).with_name("openapi.json")
# What a client does not depend on. A field that has such a name is an object, so it stays.
# The title's pattern is made of Python's tables of Unicode, which grow from version to version.
PROSE = ("summary", "description", "title", "version", "example", "pattern")


def contract_of(node: Any) -> Any:
    """An OpenAPI document, or a part of one, without its prose and patterns."""
    if isinstance(node, list):
        return [contract_of(each) for each in node]
    if not isinstance(node, dict):
        return node
    return {
        key: contract_of(value)
        for key, value in sorted(node.items())
        if not (key in PROSE and isinstance(value, str)) and key != "examples"
    }


def test_prose_is_left_out_and_fields_of_such_names_stay() -> None:
    field = {"type": "string", "description": "What the list shows"}
    schema = {"description": "A file", "properties": {"title": field, "description": {"type": "string"}}}
    assert contract_of({"schemas": [schema]}) == {
        "schemas": [{"properties": {"description": {"type": "string"}, "title": {"type": "string"}}}]
    }


def test_the_contract_of_rest_is_the_one_on_record(settings: Settings, tmp_path: Path) -> None:
    with serving(settings) as rest:
        found = contract_of(rest.client.get("/api/openapi.json").json())
    if found != json.loads(SNAPSHOT.read_text()):
        left = tmp_path / SNAPSHOT.name
        left.write_text(json.dumps(found, indent=1) + "\n")
        pytest.fail(f"See `diff {SNAPSHOT} {left}`. If clients can take the change, replace the first by the second.")
