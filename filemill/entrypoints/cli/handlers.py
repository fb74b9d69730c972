"""`filemill handlers`: the handlers that are installed here."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer

from filemill.config.settings import Settings, load
from filemill.domain.files import truncate_to_milliseconds
from filemill.domain.handlers import TEXT_SPEC, HandlerSpec
from filemill.entrypoints.cli import rest_lists
from filemill.entrypoints.cli.arguments import Home
from filemill.entrypoints.cli.output import AsJson, fail, plain, print_json, print_table, say
from filemill.entrypoints.cli.rest_client import rest_client
from filemill.entrypoints.processor import handler_pool, handler_sources
from filemill.errors import AttemptFailed, InvalidRequest, PermanentError, RetryLater
from filemill.handlers.definition import Handler
from filemill.handlers.job import JobRequest
from filemill.handlers.pool import AttemptHooks, AttemptUsage
from filemill.handlers.registry import HandlerRegistry, load_handlers
from filemill.services.job_requests import check_parameters, encode_parameters, parse_parameters
from filemill_workers.file_processor.handlers import Handlers


def register(app: typer.Typer) -> None:
    """Add the commands."""
    handlers = typer.Typer(help="Handlers: the functions that make files.", no_args_is_help=True)
    handlers.command("list")(list_handlers)
    handlers.command("show")(show)
    handlers.command("try")(try_handler)
    app.add_typer(handlers, name="handlers")


Name = Annotated[str, typer.Argument(help="Name of the handler.")]


def list_handlers(home: Home = None, *, as_json: AsJson = False) -> None:
    """List the handlers that are installed here: a processor with these settings can run them.

    With FILEMILL_URL, those of the running workers.
    """
    specs = _specs(home)
    if as_json:
        print_json([msgspec.to_builtins(spec) for spec in specs])
        return
    columns = ["name", "version", "makes", "deterministic", "deadline", "attempts"]
    print_table(columns, [_row(spec) for spec in specs])


def _row(spec: HandlerSpec) -> list[object]:
    deadline = f"{spec.timeout:g} s" if spec.timeout else ""
    deterministic = "yes" if spec.deterministic else "no"
    return [spec.name, spec.version, spec.content_type, deterministic, deadline, spec.attempts or ""]


def show(name: Name, home: Home = None) -> None:
    """Print what a handler announces, with the JSON Schema of its parameters."""
    specs = {spec.name: spec for spec in _specs(home)}
    if name not in specs:
        _fail_unknown(name, list(specs))
    print_json(msgspec.to_builtins(specs[name]))


def _specs(home: Path | None) -> list[HandlerSpec]:
    client = rest_client(home)
    if client is not None:
        return rest_lists.handler_specs(client)
    return [TEXT_SPEC, *(one.spec() for one in load_handlers(handler_sources(load(home=home))))]


def try_handler(
    name: Name,
    home: Home = None,
    *,
    parameters: Annotated[Path | None, typer.Option(help="JSON file with the parameters. Default: none.")] = None,
    inputs: Annotated[list[str] | None, typer.Option("--input", help="An input as NAME=FILE. Repeatable.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where to write the file. Default: NAME.EXTENSION.")] = None,
    title: Annotated[str, typer.Option(help="Title of the request.")] = "A try",
) -> None:
    """Run a handler here, once, without servers, under the limits that a processor gives it."""
    settings = load(home=home)
    registry = load_handlers(handler_sources(settings))
    handler = _find(registry, name)
    request = JobRequest(
        handler=name,
        parameters=_checked(handler, _read(parameters) if parameters is not None else b"{}"),
        id=1,
        title=title,
        requested_at=truncate_to_milliseconds(datetime.now(UTC)),
        inputs=dict(_input(one) for one in inputs or ()),
    )
    path = output or Path(f"{name}.{handler.extension}")
    body, usage = asyncio.run(_run(settings, registry, handler, request))
    path.write_bytes(body)
    say(f"Wrote {path}: {len(body)} bytes, {usage.cpu_seconds:.2f} s of CPU, {usage.peak_bytes // 2**20} MiB of memory")


async def _run(
    settings: Settings, registry: HandlerRegistry, handler: Handler, request: JobRequest
) -> tuple[bytes, AttemptUsage]:
    body = bytearray()
    used = AttemptUsage()

    async def write(data: bytes) -> None:
        body.extend(data)

    def use(usage: AttemptUsage) -> None:
        nonlocal used
        used = usage

    def progress(fraction: float, text: str) -> None:
        typer.echo(f"{fraction:4.0%} {plain(text)}", err=True)

    async def save(data: bytes) -> None:
        typer.echo(f"checkpoint of {len(data)} bytes", err=True)

    handlers = Handlers(registry, handler_pool(settings))
    failure: Exception | None = None
    try:
        await handlers.run(
            handler, request, AttemptHooks(write=write, progress=progress, save_checkpoint=save, used=use)
        )
    except (PermanentError, AttemptFailed, RetryLater) as error:
        failure = error
    finally:
        await handlers.close()
    for line in used.log.splitlines():
        typer.echo(plain(line), err=True)
    if failure is not None:
        trace = getattr(failure, "trace", "")
        if trace:
            typer.echo("\n".join(plain(line) for line in trace.splitlines()), err=True)
        later = f" (again in {failure.seconds:g} s)" if isinstance(failure, RetryLater) else ""
        fail(f"{failure}{later}", 1)
    return bytes(body), used


def _find(registry: HandlerRegistry, name: str) -> Handler:
    handler = registry.get(name)
    if handler is None:
        _fail_unknown(name, [TEXT_SPEC.name, *registry.names])
    return handler


def _fail_unknown(name: str, known: list[str]) -> NoReturn:
    remedy = "FILEMILL_HANDLERS names modules with handlers"
    fail(f'There is no handler "{name}" here. There are: {", ".join(known)}. {remedy}', 2)


def _checked(handler: Handler, parameters: bytes) -> bytes:
    """The parameters, checked as those of a request are."""
    try:
        given = parse_parameters(parameters.decode())
        check_parameters(handler.spec(), given)
    except UnicodeDecodeError as error:
        fail(f"the parameters are not UTF-8: {error}", 2)
    except InvalidRequest as error:
        fail(f"{error.field}: {error.reason}", 2)
    return encode_parameters(given).encode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        fail(f"The parameters cannot be read: {error}", 2)


def _input(text: str) -> tuple[str, str]:
    name, _, file = text.partition("=")
    path = Path(file).absolute()
    if not name or not path.is_file():
        fail(f"--input {text}: write NAME=FILE with an existing file", 2)
    return name, str(path)
