"""The type of a handler's parameters: a msgspec Struct, a pydantic model, or a plain dict."""

import typing
from collections.abc import Callable
from typing import Any

import msgspec

from filemill.errors import DeadLetterCode, InvalidHandler, PermanentError
from filemill.handlers.job import Job


class ParameterType(msgspec.Struct, frozen=True):
    """How to read parameters, and their JSON Schema."""

    decode: Callable[[bytes], Any]
    schema: dict[str, Any]


def parameter_type(name: str, function: Callable[..., Any]) -> ParameterType:
    """The parameters that a handler's function takes, by the annotation of its first argument. Raises InvalidHandler.

    Without a type, as in `job: Job`, they are any JSON object.
    """
    try:
        hints = typing.get_type_hints(function)
    except Exception as error:  # a hint may be any expression
        raise InvalidHandler(f'The annotations of the handler "{name}" cannot be resolved: {error}') from error
    arguments = [hint for argument, hint in hints.items() if argument != "return"]
    kind = typing.get_args(arguments[0])[0] if arguments and typing.get_origin(arguments[0]) is Job else dict
    try:
        return _of(kind)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidHandler(
            f'The parameters of the handler "{name}" have the type {kind!r}, which has no JSON Schema: {error}. Use a'
            " msgspec.Struct, a pydantic model or dict"
        ) from error


def _of(kind: Any) -> ParameterType:  # noqa: ANN401 - any annotation
    if kind in (dict, Any) or typing.get_origin(kind) is dict:
        return ParameterType(_reader(dict[str, Any], msgspec.ValidationError), {"type": "object"})
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return ParameterType(_reader(kind, msgspec.ValidationError), msgspec.json.schema(kind))
    if hasattr(kind, "model_json_schema") and hasattr(kind, "model_validate_json"):  # pydantic, if it is installed
        return ParameterType(_checked(kind.model_validate_json, ValueError), kind.model_json_schema())
    raise TypeError("it is neither")


def _reader(kind: Any, error: type[Exception]) -> Callable[[bytes], Any]:  # noqa: ANN401
    return _checked(msgspec.json.Decoder(kind).decode, error)


def _checked(decode: Callable[[bytes], Any], refusal: type[Exception]) -> Callable[[bytes], Any]:
    def checked(parameters: bytes) -> Any:  # noqa: ANN401
        try:
            return decode(parameters or b"{}")
        except (refusal, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise PermanentError(f"The parameters are invalid: {error}", DeadLetterCode.PARAMETERS_INVALID) from None

    return checked
