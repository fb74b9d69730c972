"""The handlers that come with filemill, under the limits of the pool."""

import asyncio
import csv
import io
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from filemill.errors import AttemptFailed, InvalidHandler, PermanentError
from filemill.handlers import registry
from filemill.handlers.job import JobRequest
from filemill.handlers.pool import ChildPool, PoolOptions
from filemill.handlers.registry import HandlerSources, load_handlers
from tests.handlers.test_pool import MOMENT, Outcome

UPPER = [sys.executable, "-c", "import sys; sys.stdout.write(sys.stdin.read().upper())"]
SOURCES = HandlerSources(
    modules=("pdf", "table", "thumbnail"),
    commands={"upper": UPPER, "false": ["false"]},
)


def run_all(
    tmp_path: Path, jobs: Sequence[tuple[str, object, dict[str, Path]]], sources: HandlerSources = SOURCES
) -> list[bytes | Exception]:
    """Run these jobs in one process; returns the results, or what they raised."""

    async def scenario() -> list[bytes | Exception]:
        (tmp_path / "pool").mkdir(exist_ok=True)
        pool = ChildPool(PoolOptions(sources=sources, size=1, folder=tmp_path / "pool"))
        handlers = load_handlers(sources)
        found: list[bytes | Exception] = []
        for name, parameters, inputs in jobs:
            handler = handlers.get(name)
            assert handler is not None
            outcome = Outcome()
            request = JobRequest(
                handler=name,
                parameters=msgspec.json.encode(parameters),
                id=1,
                title="A title",
                requested_at=MOMENT,
                inputs={key: str(path) for key, path in inputs.items()},
            )
            try:
                await pool.run(handler, request, outcome.hooks)
            except (PermanentError, AttemptFailed) as error:
                found.append(error)
            else:
                found.append(bytes(outcome.body))
        await pool.close()
        return found

    return asyncio.run(scenario())


def test_markdown_becomes_a_pdf_and_nothing_in_it_is_code(tmp_path: Path) -> None:
    text = '# A heading\n\nSome *text*, `code`, [a link](https://example.com), #panic("no").\n\n- one\n- two\n\n> said'
    first, second = run_all(tmp_path, [("pdf", {"markdown": text}, {})] * 2)
    assert isinstance(first, bytes), first
    assert first.startswith(b"%PDF-")
    assert first == second


TEMPLATE = """#import "parts.typ": greeting
#let data = json(bytes(sys.inputs.data))
= #sys.inputs.title
#greeting(data.name) #datetime.today().display()
"""


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    """A folder with the template `letter`, what it imports, one that reads other files, and one that is a link."""
    folder = tmp_path / "templates"
    folder.mkdir()
    (tmp_path / "secret.typ").write_text("secret")
    (folder / "letter.typ").write_text(TEMPLATE)
    (folder / "parts.typ").write_text("#let greeting(name) = [Dear #name]")
    (folder / "curious.typ").write_text('#read("../secret.typ")')
    (folder / "link.typ").symlink_to(tmp_path / "secret.typ")
    return folder


def test_a_template_becomes_a_pdf_with_data_that_are_no_code(tmp_path: Path, templates: Path) -> None:
    parameters = {"template": "letter", "data": {"name": '#panic("no") ' * 3}}
    first, second, other = run_all(
        tmp_path,
        [("pdf", parameters, {}), ("pdf", parameters, {}), ("pdf", {**parameters, "data": {"name": "Ada"}}, {})],
        HandlerSources(modules=("pdf",), templates=str(templates)),
    )
    assert isinstance(first, bytes), first
    assert first.startswith(b"%PDF-")
    assert first == second != other


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"template": "../secret"}, "template"),
        ({"template": "/etc/passwd"}, "template"),
        ({"template": "Letter"}, "template"),
        ({"template": "letter\n"}, "template"),
        ({"template": "absent"}, 'no template "absent". There are: curious, letter, link, parts'),
        ({"template": "link"}, 'no template "link"'),
        ({"template": "curious"}, "cannot be rendered"),
        ({"template": "letter"}, "cannot be rendered"),
        ({"template": "letter", "markdown": "text"}, 'needs either "markdown" or "template"'),
        ({}, 'needs either "markdown" or "template"'),
        ({"markdown": "text", "data": {"a": 1}}, '"data" are for a template'),
    ],
)
def test_a_request_cannot_leave_the_folder_of_the_templates(
    tmp_path: Path, templates: Path, parameters: dict[str, object], words: str
) -> None:
    (result,) = run_all(tmp_path, [("pdf", parameters, {})], HandlerSources(modules=("pdf",), templates=str(templates)))
    assert isinstance(result, PermanentError), result
    assert words in str(result)
    assert "secret" not in str(result).replace("../secret", "")


def test_the_version_of_pdf_changes_with_its_templates(templates: Path) -> None:
    def version(folder: str) -> str:
        found = load_handlers(HandlerSources(modules=("pdf",), templates=folder)).get("pdf")
        assert found is not None
        return found.version

    before = version(str(templates))
    assert version(str(templates)) == before != version("")
    (templates / "parts.typ").write_text("#let greeting(name) = [Hello #name]")
    assert version(str(templates)) != before
    with pytest.raises(InvalidHandler, match=r"FILEMILL_HANDLERS_TEMPLATES names .*, which is not a folder"):
        version(str(templates / "absent"))


def test_a_query_reads_rows_and_inputs(tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_text("item,price\nink,20\npaper,4\n")
    inputs = {"prices": tmp_path / "prices.csv"}
    parameters: dict[str, Any] = {
        "sql": "SELECT item, quantity * price AS total FROM rows JOIN prices USING (item) ORDER BY item",
        "rows": [{"item": "ink", "quantity": 2}, {"item": "paper", "quantity": 3}],
    }
    formula = {"sql": "SELECT '=1+1' AS cell, 7 AS number, NULL AS none, DATE '2026-01-04' AS day", "rows": []}
    as_csv, as_parquet, as_xlsx = run_all(
        tmp_path, [("table", parameters, inputs), ("table-parquet", parameters, inputs), ("table-xlsx", formula, {})]
    )
    assert isinstance(as_csv, bytes), as_csv
    assert list(csv.reader(io.StringIO(as_csv.decode()))) == [["item", "total"], ["ink", "40"], ["paper", "12"]]
    assert isinstance(as_parquet, bytes), as_parquet
    assert (as_parquet[:4], as_parquet[-4:]) == (b"PAR1", b"PAR1")
    assert isinstance(as_xlsx, bytes), as_xlsx
    with zipfile.ZipFile(io.BytesIO(as_xlsx)) as book:
        sheet = book.read("xl/worksheets/sheet1.xml")
    assert b"=1+1" in sheet
    assert b"2026-01-04" in sheet
    assert b"<f>" not in sheet, "a text is no formula"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('{secret}')",
        "SELECT * FROM '{secret}'",
        "COPY (SELECT 1) TO '{target}'",
        "ATTACH '{target}' AS other",
        "SET enable_external_access = true",
        "INSTALL httpfs",
    ],
)
def test_a_query_has_no_access_to_other_files(tmp_path: Path, sql: str) -> None:
    (tmp_path / "secret.csv").write_text("password\nsesame\n")
    wanted = sql.format(secret=tmp_path / "secret.csv", target=tmp_path / "target")
    (result,) = run_all(tmp_path, [("table", {"sql": wanted}, {})])
    assert isinstance(result, PermanentError), result
    assert not (tmp_path / "target").exists()


def test_a_thumbnail_keeps_proportions_and_bombs_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (600, 300), "red").save(tmp_path / "image.jpg", exif=b"Exif\0\0secret")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    (tmp_path / "text.png").write_text("no image")
    small, bomb, text, nothing = run_all(
        tmp_path,
        [
            ("thumbnail", {"width": 100, "height": 100}, {"image": tmp_path / "image.jpg"}),
            ("thumbnail", {}, {"image": tmp_path / "bomb.png"}),
            ("thumbnail", {}, {"image": tmp_path / "text.png"}),
            ("thumbnail", {}, {}),
        ],
    )
    assert isinstance(small, bytes), small
    assert Image.open(io.BytesIO(small)).size == (100, 50)
    assert b"secret" not in small
    for result, words in ((bomb, "more than 50000000 pixels"), (text, "not an image"), (nothing, 'input "image"')):
        assert isinstance(result, PermanentError)
        assert words in str(result)


def test_a_command_gets_its_data_on_stdin_and_no_other_may_run(tmp_path: Path) -> None:
    upper, failed, unknown = run_all(
        tmp_path,
        [
            ("command", {"name": "upper", "data": {"text": "$(id)"}}, {}),
            ("command", {"name": "false"}, {}),
            ("command", {"name": "rm -rf /"}, {}),
        ],
    )
    assert upper == b'{"TEXT":"$(ID)"}'
    assert isinstance(failed, AttemptFailed)
    assert "exit code 1" in str(failed)
    assert isinstance(unknown, PermanentError)
    assert "Allowed: false, upper" in str(unknown)


def test_a_missing_library_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "pdf", ("typst_is_missing",))
    with pytest.raises(
        InvalidHandler, match='"pdf" needs typst_is_missing: install filemill with the extra `handlers`'
    ):
        load_handlers(HandlerSources(modules=("pdf",)))
