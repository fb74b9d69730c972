"""Text of others, such as the labels of a handler's schema, where Streamlit draws Markdown."""

import re

# Markdown and Streamlit's directives consist of ASCII punctuation, all of which a backslash makes literal.
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


def as_plain_markdown(text: str) -> str:
    """Markdown that shows `text` itself: no links, images, colours or formulas; line breaks become blanks."""
    return _PUNCTUATION.sub(r"\\\1", " ".join(text.split()))
