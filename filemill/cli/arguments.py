"""Arguments that are more than text or numbers: read strictly, refused with a sentence (exit code 2)."""

import typer

from filemill.files import InvalidRequest, parse_file_id


def file_id_argument(text: str) -> int:
    """A file's id, for `typer.Argument(parser=…)`."""
    try:
        return parse_file_id(text)
    except InvalidRequest as error:
        raise typer.BadParameter(f"{text!r}: an id {error.reason}") from None
