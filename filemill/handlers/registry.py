"""Finds the installed handlers: by entry points, by the names of modules, and those that come with filemill."""

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata

import msgspec

from filemill.errors import InvalidHandler
from filemill.handlers.definition import Handler

ENTRY_POINTS = "filemill.handlers"
# The handlers that come with filemill: their names in place of a module, and the libraries that each needs.
BUILT_IN = {"pdf": ("typst", "markdown_it"), "table": ("duckdb", "xlsxwriter"), "thumbnail": ("PIL",)}


class HandlerSources(msgspec.Struct, frozen=True):
    """Where to look for handlers. `modules`: names of modules, besides the entry points; or names in BUILT_IN.

    `commands`: the command lines of the handler "command", by name. `templates`: the folder of the templates of the
    handler "pdf"; "" for none.
    """

    modules: tuple[str, ...] = ()
    commands: dict[str, list[str]] = {}
    templates: str = ""


class HandlerRegistry:
    """The handlers of this process, by name."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = dict(handlers)

    def __iter__(self) -> Iterator[Handler]:
        return iter(sorted(self._handlers.values(), key=lambda one: one.name))

    def get(self, name: str) -> Handler | None:
        """The handler with this name, or None."""
        return self._handlers.get(name)

    @property
    def names(self) -> list[str]:
        """The names, sorted."""
        return sorted(self._handlers)


def load_handlers(sources: HandlerSources | None = None) -> HandlerRegistry:
    """Import all handlers and check them.

    Raises InvalidHandler if a module cannot be imported, if two handlers have the same name, or if the parameters of a
    handler have no JSON Schema.
    """
    sources = sources or HandlerSources()
    found: dict[str, tuple[Handler, str]] = {}
    for one, origin in _all(sources):
        known = found.setdefault(one.name, (one, origin))
        if known[0] is not one:
            raise InvalidHandler(f'Two handlers have the name "{one.name}": in {known[1]} and in {origin}. Rename one')
        _ = one.parameters  # raises if they cannot be described
    return HandlerRegistry({name: one for name, (one, _) in found.items()})


def _all(sources: HandlerSources) -> Iterator[tuple[Handler, str]]:
    if sources.commands:
        # It needs the API of handlers, which imports this module.
        from filemill.handlers.builtin.command import command_handler  # noqa: PLC0415

        yield command_handler(sources.commands), "FILEMILL_HANDLERS_COMMANDS"
    for point in sorted(metadata.entry_points(group=ENTRY_POINTS), key=lambda one: (one.name, one.value)):
        origin = f'the entry point "{point.name} = {point.value}"'
        loaded = _imported(origin, point.load)
        if isinstance(loaded, Handler):
            yield loaded, origin
        else:
            yield from _of(loaded, origin)
    for module in sources.modules:
        if module in BUILT_IN:
            yield from _built_in(module, sources)
        else:
            yield from _in_module(module, f'the module "{module}"')


def _built_in(name: str, sources: HandlerSources) -> Sequence[tuple[Handler, str]]:
    missing = [library for library in BUILT_IN[name] if importlib.util.find_spec(library) is None]
    if missing:
        raise InvalidHandler(
            f'The handler "{name}" needs {" and ".join(missing)}: install filemill with the extra `handlers`'
        )
    origin = f'the built-in "{name}"'
    if name == "pdf":
        # It needs the API of handlers, which imports this module.
        from filemill.handlers.builtin.pdf import pdf_handler  # noqa: PLC0415

        return [(pdf_handler(sources.templates), origin)]
    return _in_module(f"filemill.handlers.builtin.{name}", origin)


def _in_module(module: str, origin: str) -> Sequence[tuple[Handler, str]]:
    return _of(_imported(origin, lambda: importlib.import_module(module)), origin)


def _imported(origin: str, load: Callable[[], object]) -> object:
    try:
        return load()
    except InvalidHandler:
        raise
    except Exception as error:  # importing runs any code
        raise InvalidHandler(
            f"The handlers of {origin} cannot be imported: {type(error).__name__}: {error}. Install what is missing, or"
            " remove it from FILEMILL_HANDLERS or uninstall its package"
        ) from error


def _of(module: object, origin: str) -> list[tuple[Handler, str]]:
    handlers = [one for one in vars(module).values() if isinstance(one, Handler)] if hasattr(module, "__dict__") else []
    if not handlers:
        raise InvalidHandler(f"There is no handler in {origin}: no function with the decorator @handler")
    return [(one, origin) for one in handlers]
