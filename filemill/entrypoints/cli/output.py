"""What the commands print: tables for people, JSON with --json, errors as a sentence on stderr."""

import json
import sys
from collections.abc import Iterable
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from filemill.domain.origins import redact_passwords

# Wide where nobody looks: a file or a pipe has no edge to cut cells at.
PIPE_COLUMNS = 240

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_COLUMNS)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def print_json(value: Any) -> None:  # noqa: ANN401
    """One JSON document, indented. Times as ISO 8601. What is not printable in it is escaped, as JSON can do."""
    sys.stdout.write(_indented(value) + "\n")


def print_json_list(start: dict[str, Any], name: str, items: Iterable[Any]) -> None:
    """A JSON document that ends with a long list: printed item by item, so that memory does not grow with it."""
    sys.stdout.write(_indented(start).removesuffix("\n}") + f',\n  "{name}": [')
    comma = ""
    for item in items:
        sys.stdout.write(f"{comma}\n    " + _indented(item).replace("\n", "\n    "))
        comma = ","
    sys.stdout.write("\n  ]\n}\n" if comma else "]\n}\n")


def _indented(value: Any) -> str:  # noqa: ANN401
    document = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return "".join(one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in document)


def print_table(columns: list[str], rows: list[list[object]]) -> None:
    """A table. Cells are text: a title is never taken for markup, and its control characters are shown as such."""
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    console.print(table)


def plain(cell: object) -> str:
    """The cell as printable text: what could move a terminal's cursor or colour is escaped."""
    text = "" if cell is None else str(cell)
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def say(sentence: str) -> None:
    """A line for a person, on stderr, so that stdout stays data."""
    errors.print(Text(_lines(sentence)))


def fail(sentence: str, code: int) -> NoReturn:
    """Say what went wrong, and leave."""
    errors.print(Text("Error: ", style="bold red") + Text(_lines(redact_passwords(sentence))))
    raise SystemExit(code)


def _lines(text: str) -> str:
    """Text of one or more lines as printable text: an error can carry what a server, or a title, put into it."""
    return "\n".join(plain(line) for line in text.split("\n"))
