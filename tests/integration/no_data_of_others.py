"""A check of schemathesis: it notes each response with the marker that is in the files of another person.

schemathesis imports this module, as its setting `hooks` says.
"""

import os
from pathlib import Path
from typing import Any

import schemathesis

MARKER = "zanzibar-of-another-person"
# The file that gets a line for each such response.
SEEN = "MARKER_SEEN"


@schemathesis.check
def no_data_of_others(
    _context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Never fails a run: who may see the files of others is decided by the test."""
    if MARKER.encode() in response.content:
        with Path(os.environ[SEEN]).open("a") as seen:
            seen.write(f"{case.method} {case.formatted_path} {response.status_code}\n")
