"""Checks requests for handlers: whether a running worker has the handler, its parameters, and the queue.

The parameters are checked against the JSON Schema that the workers announced. References to other documents are not
followed, and patterns are limited in their steps, because a schema comes from a worker.
"""

import functools
import json
from collections.abc import Collection, Sequence
from typing import Any

import jsonschema_rs
import msgspec
import sqlalchemy as sa

from filemill.domain.files import NewFile
from filemill.domain.handlers import PARAMETERS_MAX_BYTES, TEXT_HANDLER, HandlerSpec, check_inputs
from filemill.domain.json_paths import json_path
from filemill.domain.queues import choose_queue
from filemill.errors import InvalidRequest
from filemill.queries.handlers import HandlerView, live_handlers

PARAMETERS = "parameters"
_REASON_MAX_CHARACTERS = 300
_PATTERN_STEPS_MAX = 100_000


class UnknownHandler(InvalidRequest):
    """No running worker has announced the handler."""

    code = "unknown-handler"


class InvalidParameter(InvalidRequest):
    """A parameter that the handler's schema does not allow. `field` is its JSON path in the request."""

    code = "invalid-parameter"


class JobRequests:
    """Checks requests against the handlers of the running workers. Any thread."""

    def __init__(self, queues: Collection[str]) -> None:
        """`queues`: the names of all queues."""
        self._queues = sorted(queues)

    def check(self, connection: sa.Connection, files: Sequence[NewFile]) -> list[NewFile]:
        """The requests, each with its queue. Raises InvalidRequest for the first one that cannot be accepted."""
        if all(file.only_text for file in files):
            return list(files)
        handlers = {handler.name: handler for handler in live_handlers(connection)}
        return [file if file.only_text else self._check(file, handlers) for file in files]

    def errors(self, connection: sa.Connection, files: Sequence[NewFile]) -> list[InvalidRequest | None]:
        """What is wrong with each request; None for one that can be accepted."""
        handlers = {handler.name: handler for handler in live_handlers(connection)}
        return [self._error(file, handlers) for file in files]

    def queue(self, connection: sa.Connection, file: NewFile) -> str:
        """The queue of an accepted request, also if no worker has its handler now."""
        handlers = {handler.name: handler for handler in live_handlers(connection)}
        return self._queue(file, handlers.get(file.handler))

    def _error(self, file: NewFile, handlers: dict[str, HandlerView]) -> InvalidRequest | None:
        try:
            self._check(file, handlers)
        except InvalidRequest as error:
            return error
        return None

    def _check(self, file: NewFile, handlers: dict[str, HandlerView]) -> NewFile:
        handler = handlers.get(file.handler)
        if handler is None:
            reason = f"no running worker has the handler {file.handler!r}; there are: {', '.join(sorted(handlers))}"
            raise UnknownHandler("handler", reason)
        check_inputs(file.inputs)
        parameters = parse_parameters(file.parameters) if file.parameters is not None else {}
        check_parameters(handler, parameters)
        return msgspec.structs.replace(file, queue=self._queue(file, handler))

    def _queue(self, file: NewFile, handler: HandlerView | None) -> str:
        return choose_queue(
            file.queue,
            file.handler,
            handler.queue if handler is not None and file.handler != TEXT_HANDLER else None,
            inputs=bool(file.inputs),
            known=self._queues,
        )


def encode_parameters(parameters: object) -> str:
    """Parameters as the text of a JSON object. Raises InvalidRequest."""
    if not isinstance(parameters, dict):
        raise InvalidRequest(PARAMETERS, "must be a JSON object")
    try:
        text = json.dumps(parameters, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidRequest(PARAMETERS, "must be valid Unicode: there is a lone surrogate") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidRequest(PARAMETERS, f"must be JSON: {error}") from None
    if size > PARAMETERS_MAX_BYTES:
        raise InvalidRequest(PARAMETERS, f"must have at most {PARAMETERS_MAX_BYTES} bytes as JSON, not {size}")
    if r"\u0000" in text and _has_nul(parameters):
        raise InvalidRequest(PARAMETERS, "must not contain a NUL character")
    return text


def parse_parameters(text: str) -> dict[str, Any]:
    """The parameters in a text. Raises InvalidRequest."""
    try:
        parameters = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(PARAMETERS, f"must be a JSON object: {error}") from None
    encode_parameters(parameters)
    assert isinstance(parameters, dict)
    return parameters


def check_parameters(handler: HandlerView | HandlerSpec, parameters: dict[str, Any]) -> None:
    """Check parameters against the handler's schema. Raises InvalidParameter, which names the place."""
    try:
        validator = _validator(json.dumps(handler.schema, sort_keys=True))
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        reason = f"the schema that the workers announce for {handler.name} is invalid: {_first_line(str(error))}"
        raise InvalidRequest("handler", reason) from None
    try:
        found = next(iter(validator.iter_errors(parameters)), None)
    except ValueError as error:
        raise InvalidRequest(PARAMETERS, _first_line(str(error))) from None
    if found is not None:
        raise InvalidParameter(json_path(PARAMETERS, _place(found)), _first_line(found.message))


@functools.lru_cache(maxsize=256)
def _validator(schema: str) -> Any:  # noqa: ANN401 - the class depends on the draft that the schema names
    return jsonschema_rs.validator_for(
        json.loads(schema),
        validate_formats=True,
        retriever=_refuse_reference,
        pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_PATTERN_STEPS_MAX),
    )


def _refuse_reference(address: str) -> Any:  # noqa: ANN401 - it returns nothing
    raise ValueError(f"it refers to another document, {address}")


def _place(error: jsonschema_rs.ValidationError) -> list[str | int]:
    """Where the error is. A property that is missing or not allowed is named, too."""
    place = list(error.instance_path)
    kind = error.kind
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.Required):
        place.append(kind.property)
    elif isinstance(kind, jsonschema_rs.ValidationErrorKind.AdditionalProperties) and kind.unexpected:
        place.append(kind.unexpected[0])
    return place


def _first_line(text: str) -> str:
    line = text.partition("\n")[0]
    return line if len(line) <= _REASON_MAX_CHARACTERS else f"{line[:_REASON_MAX_CHARACTERS]} …"


def _has_nul(node: object) -> bool:
    if isinstance(node, str):
        return "\0" in node
    if isinstance(node, dict):
        return any("\0" in key or _has_nul(value) for key, value in node.items())
    return isinstance(node, list) and any(map(_has_nul, node))
