"""Output of the commands: hostile text is escaped, data goes to stdout, messages go to stderr."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from io import StringIO

import msgspec
import pytest
from rich.console import Console

from filemill.entrypoints.cli import output
from filemill.entrypoints.cli.output import fail, plain, print_json, print_table, say


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """A wide colour terminal."""
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, color_system="truecolor", width=200, highlight=False)
    monkeypatch.setattr(output, "console", console)
    monkeypatch.setattr(output, "errors", console)
    return screen


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\rb\nc\td", r"a\rb\nc\td"),
        ("a\0b", r"a\x00b"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\u2066a\u2069", r"\u2066a\u2069"),
        ("a\u200bb", r"a\u200bb"),
        ("\ud800", r"\ud800"),
        ("\u2028", r"\u2028"),
        ("Ünïcödé ✓ 文件 🎉", "Ünïcödé ✓ 文件 🎉"),
        ("", ""),
        (None, ""),
        (7, "7"),
    ],
)
def test_control_characters_are_escaped(text: object, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize(
    "title",
    ["<script>alert(1)</script>", "[bold red]x[/]", "[link=http://e.vil]x[/link]", "[/]", ":smile:", "=1+1", "a\\[b]"],
)
def test_a_title_in_a_table_is_not_interpreted_as_markup(terminal: StringIO, title: str) -> None:
    print_table(["title"], [[title]])
    assert title in terminal.getvalue()
    assert "http://e.vil\x1b\\" not in terminal.getvalue()


def test_a_title_cannot_send_terminal_escapes(terminal: StringIO) -> None:
    print_table(["title"], [["\x1b[31mred"]])
    body = terminal.getvalue().splitlines()[1]
    assert "\x1b[31m" not in body
    assert r"\x1b[31mred" in body


def test_a_message_is_not_interpreted_as_markup(terminal: StringIO) -> None:
    say("file [bold]x[/bold] :smile:")
    assert "file [bold]x[/bold] :smile:" in terminal.getvalue()


def test_a_message_cannot_send_terminal_escapes(terminal: StringIO) -> None:
    say("S3: \x1b[2J\x1b[31mgone")
    assert "\x1b[2J" not in terminal.getvalue()


def test_a_failure_prints_a_sentence_and_exits_with_a_code(terminal: StringIO) -> None:
    with pytest.raises(SystemExit) as caught:
        fail("no [such] file", 2)
    assert caught.value.code == 2
    assert "no [such] file" in terminal.getvalue()


class _Row(msgspec.Struct):
    id: int
    title: str
    at: datetime


def test_json_is_one_document_without_unprintable_characters(capsys: pytest.CaptureFixture[str]) -> None:
    row = _Row(1, '\x1b[31m"<b>\n\x9b2J\u202e📄', datetime(2026, 1, 4, 12, tzinfo=UTC))
    print_json([row])
    printed = capsys.readouterr().out
    assert json.loads(printed) == [{"id": 1, "title": row.title, "at": "2026-01-04T12:00:00Z"}]
    assert all(character.isprintable() for character in printed if character != "\n")


def test_messages_go_to_stderr_and_a_table_in_a_pipe_is_not_cut() -> None:
    code = """
from filemill.entrypoints.cli.output import print_table, say
say('a sentence')
print_table(['a', 'b'], [['x' * 100, 'y' * 100]])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "x" * 100 in ended.stdout
    assert "y" * 100 in ended.stdout
    assert "\x1b" not in ended.stdout
    assert ended.stderr == "a sentence\n"
