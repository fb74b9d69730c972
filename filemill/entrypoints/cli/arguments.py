"""Arguments that are more than text or numbers: read strictly, refused with a sentence (exit code 2)."""

import typer

from filemill.domain.files import InvalidRequest, parse_file_id
from filemill.queries.dead_letters import parse_place


def file_id_argument(text: str) -> int:
    """A file's id, for `typer.Argument(parser=…)`."""
    try:
        return parse_file_id(text)
    except InvalidRequest as error:
        raise typer.BadParameter(f"{text!r}: an id {error.reason}") from None


def place_argument(text: str) -> str:
    """A dead letter's place, for `typer.Argument(parser=…)`."""
    if parse_place(text) is None:
        raise typer.BadParameter(f"{text!r}: a place is partition:offset, as 0:12")
    return text
