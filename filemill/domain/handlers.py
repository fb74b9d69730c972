"""Handlers: what a processor can do with a request. Pure.

Workers announce their handlers on `worker.events`; the status sync stores the announcements. The page and REST check a
request against the announced JSON Schema and need none of the handler's code.
"""

from typing import Annotated

import msgspec

from filemill.errors import InvalidRequest

# The handler of a request that names none: the text of the reference design.
TEXT_HANDLER = "text"
TEXT_CONTENT_TYPE = "text/plain; charset=utf-8"

HANDLER_NAME_PATTERN = "^[a-z][a-z0-9_-]{0,63}$"
PARAMETERS_MAX_BYTES = 256 * 1024
INPUTS_MAX = 20
# S3's limit of a key, in bytes.
INPUT_KEY_MAX_BYTES = 1024

HandlerName = Annotated[str, msgspec.Meta(pattern=HANDLER_NAME_PATTERN)]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class HandlerSpec(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A handler as its workers announce it.

    `schema` is the JSON Schema of its parameters (draft 2020-12), an empty object if any are allowed. `timeout` is the
    deadline of an attempt in seconds, None for no deadline. `memory` is the limit of an attempt in bytes, None for no
    limit. `attempts` None: the processor's setting. `max_concurrency` limits the requests in progress in one processor,
    None for no limit. `queue` None: the queue follows from the request, see `filemill.domain.queues`.
    """

    name: HandlerName
    version: _Text = "1"
    schema: dict[str, object] = {}
    content_type: _Text = "application/octet-stream"
    extension: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9]{1,16}$")] = "bin"
    deterministic: bool = True
    timeout: Annotated[float, msgspec.Meta(gt=0)] | None = None
    memory: Annotated[int, msgspec.Meta(gt=0, le=2**63 - 1)] | None = None
    attempts: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    max_concurrency: Annotated[int, msgspec.Meta(ge=1, le=100_000)] | None = None
    queue: Annotated[str, msgspec.Meta(max_length=40)] | None = None


TEXT_SPEC = HandlerSpec(
    name=TEXT_HANDLER,
    schema={"type": "object", "properties": {}, "additionalProperties": False},
    content_type=TEXT_CONTENT_TYPE,
    extension="txt",
)


def check_inputs(inputs: dict[str, str]) -> dict[str, str]:
    """The inputs of a request: names and keys of objects in the bucket. Raises InvalidRequest."""
    if len(inputs) > INPUTS_MAX:
        raise InvalidRequest("inputs", f"must have at most {INPUTS_MAX} entries, not {len(inputs)}")
    for name, key in inputs.items():
        if not (0 < len(name) <= 100 and name.isprintable() and "/" not in name and "\\" not in name):
            raise InvalidRequest("inputs", "a name must have 1 to 100 printable characters without slashes")
        try:
            size = len(key.encode())
        except UnicodeEncodeError:
            size = 0
        if not 0 < size <= INPUT_KEY_MAX_BYTES or not key.isprintable():
            raise InvalidRequest(f"inputs.{name}", f"must be a printable key of 1 to {INPUT_KEY_MAX_BYTES} bytes")
    return inputs
