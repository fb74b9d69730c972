"""Output of the commands: tables, or JSON with --json; messages and errors go to stderr."""

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from filemill.domain.origins import redact_passwords
from filemill.errors import Conflict, InvalidRequest, NotFound

# The width of a table in a file or a pipe, where cells need not be cut.
PIPE_COLUMNS = 240

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_COLUMNS)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


class CommandFailed(Exception):
    """Ends the command with this sentence and exit code. `code` is that of a dashboard's response, if it gave one."""

    def __init__(self, sentence: str, exit_code: int, code: str = "") -> None:
        super().__init__(sentence)
        self.exit_code = exit_code
        self.code = code


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextlib.contextmanager
def exit_if_refused() -> Iterator[None]:
    """End the program for a refusal: exit code 1 if the state does not allow it, 2 if an argument is wrong."""
    try:
        yield
    except (Conflict, NotFound) as error:
        fail(str(error), 1)
    except InvalidRequest as error:
        fail(str(error), 2)


def print_json(value: Any) -> None:  # noqa: ANN401
    """Print one indented JSON document. Times are ISO 8601; unprintable characters are escaped."""
    sys.stdout.write(_indented(value) + "\n")


def print_json_list(start: dict[str, Any], name: str, items: Iterable[Any]) -> None:
    """Print a JSON document that ends with a long list, item by item: its length does not matter for memory."""
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
    """Print a table. Cells are text: no markup is interpreted, and control characters are escaped."""
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    console.print(table)


def plain(cell: object) -> str:
    """The cell as printable text: characters that could control a terminal are escaped."""
    text = "" if cell is None else str(cell)
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def say(sentence: str) -> None:
    """Print a message on stderr; stdout has data only."""
    errors.print(Text(_lines(sentence)))


def fail(sentence: str, code: int) -> NoReturn:
    """Print an error and exit."""
    errors.print(Text("Error: ", style="bold red") + Text(_lines(redact_passwords(sentence))))
    raise SystemExit(code)


def _lines(text: str) -> str:
    """Lines of text as printable text: an error can contain text from a server or a title."""
    return "\n".join(plain(line) for line in text.split("\n"))
