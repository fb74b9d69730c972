"""REST stays compatible: its paths, parameters, schemas and status codes match the snapshot."""

import json
from pathlib import Path
from typing import Any

import pytest

from filemill.config.settings import Settings
from tests.integration.rest import serving

SNAPSHOT = Path(__file__).with_name("openapi.json")
# Texts that no client depends on. A field of such a name is an object, so it stays.
# The pattern of the title is built from Python's Unicode tables, which grow from version to version.
PROSE = ("summary", "description", "title", "version", "example", "pattern")


def contract_of(node: Any) -> Any:
    """An OpenAPI document, or a part of one, without texts and patterns."""
    if isinstance(node, list):
        return [contract_of(each) for each in node]
    if not isinstance(node, dict):
        return node
    return {
        key: contract_of(value)
        for key, value in sorted(node.items())
        if not (key in PROSE and isinstance(value, str)) and key != "examples"
    }


def test_texts_are_removed_and_fields_of_the_same_names_stay() -> None:
    field = {"type": "string", "description": "What the list shows"}
    schema = {"description": "A file", "properties": {"title": field, "description": {"type": "string"}}}
    assert contract_of({"schemas": [schema]}) == {
        "schemas": [{"properties": {"description": {"type": "string"}, "title": {"type": "string"}}}]
    }


def test_the_openapi_document_matches_the_snapshot(settings: Settings, tmp_path: Path) -> None:
    with serving(settings) as rest:
        found = contract_of(rest.client.get("/api/openapi.json").json())
    if found != json.loads(SNAPSHOT.read_text()):
        written = tmp_path / SNAPSHOT.name
        written.write_text(json.dumps(found, indent=1) + "\n")
        pytest.fail(f"Compare: diff {SNAPSHOT} {written}. If the change is compatible, replace the snapshot.")
