"""Text of a program, with everything that is not a character to read as an escape. Pure."""


def printable(text: str) -> str:
    r"""The text with control and format characters (terminal escapes, directions of writing) as `\x1b`.

    Line breaks and tabs stay.
    """
    if all(line.isprintable() for line in text.split("\n")):
        return text
    return "".join(one if one.isprintable() or one in "\n\t" else repr(one)[1:-1] for one in text)
