"""Text of others where Streamlit draws Markdown."""

import string

import pytest

from filemill_dashboard.views.plain_markdown import as_plain_markdown


@pytest.mark.parametrize(
    "text",
    ["[x](javascript:alert(1))", "![x](https://example.org/x.png)", ":red[x]", "$x^2$", "**b** `c`", "<b>", ":smile:"],
)
def test_no_markup_is_left(text: str) -> None:
    escaped = as_plain_markdown(text)
    assert escaped.replace("\\", "") == text
    for position, character in enumerate(escaped):
        if character in string.punctuation and character != "\\":
            assert escaped[position - 1] == "\\"


def test_words_stay_as_they_are_and_lines_become_one() -> None:
    assert as_plain_markdown("Größe 2\n\n# Title") == "Größe 2 \\# Title"
    assert as_plain_markdown("") == ""
