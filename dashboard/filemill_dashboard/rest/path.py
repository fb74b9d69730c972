"""The parts of REST's paths that are more than text."""

from typing import Annotated

from fastapi import Path
from pydantic import BeforeValidator

from filemill.domain.files import FILE_ID_MAX, FileIdOutOfRange, InvalidRequest, parse_file_id
from filemill_dashboard.rest.errors import ApiError

_QUOTED_CHARACTERS = 60


def _read_file_id(text: object) -> int:
    """A number that no file can have names what is not there: 404. What is no number is a mistake: 422."""
    try:
        return parse_file_id(str(text))
    except FileIdOutOfRange:
        raise ApiError(404, "not_found", f"there is no file {str(text)[:_QUOTED_CHARACTERS]}", "id") from None
    except InvalidRequest as error:
        raise ApiError(422, "invalid", str(error), error.field) from None


FileIdPath = Annotated[
    int,
    BeforeValidator(_read_file_id),
    Path(alias="id", ge=1, le=FILE_ID_MAX, description="The file's id, in the digits 0 to 9."),
]
