"""Path parameters of the REST API that need more than a type."""

from typing import Annotated

from fastapi import Path
from pydantic import BeforeValidator

from filemill.domain.files import FILE_ID_MAX, parse_file_id
from filemill.errors import FileIdOutOfRange, InvalidRequest
from filemill_dashboard.rest.errors import ApiError

_QUOTED_CHARACTERS = 60


def _parse_file_id(text: object) -> int:
    """Parse a file id. A number that no file can have is 404; anything that is not a number is 422."""
    try:
        return parse_file_id(str(text))
    except FileIdOutOfRange:
        raise ApiError(404, "not_found", f"there is no file {str(text)[:_QUOTED_CHARACTERS]}", "id") from None
    except InvalidRequest as error:
        raise ApiError(422, "invalid", str(error), error.field) from None


FileIdPath = Annotated[
    int,
    BeforeValidator(_parse_file_id),
    Path(alias="id", ge=1, le=FILE_ID_MAX, description="The file's id, in the digits 0 to 9."),
]
