"""`filemill submit | files | download`."""

import re
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.cursors import InvalidCursor
from filemill.domain.file_actions import FileSelection
from filemill.domain.files import NewFile, Status, file_id_in_key, new_file
from filemill.domain.handlers import TEXT_HANDLER
from filemill.domain.idempotency import KeyReused, parse_key
from filemill.domain.integrity import ObjectMismatch
from filemill.entrypoints.cli.arguments import Home, file_id_argument
from filemill.entrypoints.cli.file_source import FileSource, file_source
from filemill.entrypoints.cli.output import AsJson, CommandFailed, errors, fail, print_json, print_table, say
from filemill.errors import InvalidRequest, Unavailable
from filemill.services.job_requests import encode_parameters, parse_parameters

# Pauses before a retry. If the server is unreachable for longer, the command ends.
RETRY_SECONDS = (0.5, 1.0)
# A name that a terminal shows as it is, and that no program looks for.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(submit)
    app.command("files")(files)
    app.command()(download)


def submit(
    title: Annotated[str, typer.Argument(help="The file's title, 1 to 255 characters.")],
    description: Annotated[str, typer.Option("--description", "-d", help="Text, up to 64 KiB.")] = "",
    count: Annotated[int, typer.Option(help="How many files to submit, all alike.", min=1, max=1_000_000)] = 1,
    timeout: Annotated[float, typer.Option(help="Maximum time that --wait waits, in seconds.", min=0)] = 600,
    key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key",
            help="Submit these requests once, even if the command is repeated with this key within 24 hours.",
            show_default=False,
        ),
    ] = None,
    handler: Annotated[
        str, typer.Option(help="Name of the handler; `curl …/api/handlers` lists those of the running workers.")
    ] = TEXT_HANDLER,
    parameters: Annotated[
        Path | None,
        typer.Option(help="File with the handler's parameters as a JSON object; - is stdin.", show_default=False),
    ] = None,
    queue: Annotated[
        str | None, typer.Option(help="Name of the queue; default: the queue of the handler.", show_default=False)
    ] = None,
    home: Home = None,
    *,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until all are in a final status; exit 1 unless all completed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a request for a file, or for many."""
    source = file_source(home, "submit")
    try:
        request = msgspec.structs.replace(
            new_file(title, description), handler=handler, parameters=_parameters(parameters), queue=queue
        )
        key = parse_key(key) if key is not None else secrets.token_hex(16)
    except InvalidRequest as error:
        fail(str(error), 2)
    with _progress() as progress:
        ids = _submit(source, request, count, key, progress)
        counts = _wait_for(source, ids, timeout, progress) if wait else None
    if as_json:
        print_json({"submitted": len(ids), "ids": ids, "statuses": counts})
    elif counts is None:
        say(f"Submitted {_ids(ids)}.")
    else:
        say(f"{_ids(ids)}: " + ", ".join(f"{number} {status}" for status, number in counts.items()))
    if counts is not None and counts.get(Status.COMPLETED, 0) < len(ids):
        raise typer.Exit(1)


def _parameters(file: Path | None) -> str | None:
    """The parameters in a file. Raises InvalidRequest."""
    if file is None:
        return None
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequest("--parameters", f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidRequest("--parameters", f"{file} is not UTF-8") from None
    return encode_parameters(parse_parameters(text))


def _submit(source: FileSource, request: NewFile, count: int, key: str, progress: Progress) -> list[int]:
    """Submit the requests in parts, each with its own key, so that a part whose response was lost can be retried."""
    task = progress.add_task("accepted", total=count)
    command = f"filemill submit … --idempotency-key {key}"
    ids: list[int] = []
    try:
        while len(ids) < count:
            part = [request] * min(source.submit_rows, count - len(ids))
            ids += _submit_part(source, part, f"{key} {count} {len(ids)}" if count > 1 else key)
            progress.update(task, completed=len(ids))
    except (KeyReused, InvalidRequest) as error:
        fail(str(error), 2)
    except CommandFailed as error:
        if not ids:
            raise
        more = f"Accepted before: {len(ids):,}. To submit the others, repeat the command: {command}"
        fail(f"{error}\n{more}", error.exit_code)
    except Unavailable as error:
        fail(f"{error}\nThe requests may have been accepted. To retry safely, repeat the command: {command}", 3)
    return ids


def _submit_part(source: FileSource, files: list[NewFile], key: str) -> list[int]:
    for pause in RETRY_SECONDS:
        try:
            return source.submit(files, key)
        except Unavailable:
            time.sleep(pause)
    return source.submit(files, key)


def _wait_for(source: FileSource, ids: list[int], timeout: float, progress: Progress) -> dict[Status, int]:
    """Count the statuses until all are final, or the time is up."""
    task = progress.add_task("finished", total=len(ids))
    deadline = time.monotonic() + timeout
    while True:
        counts = source.count_statuses(ids)
        finished = sum(number for status, number in counts.items() if status.terminal)
        progress.update(task, completed=finished)
        if finished == len(ids):
            return counts
        if time.monotonic() > deadline:
            say(f"Timed out after {timeout:g} s.")
            return counts
        time.sleep(source.poll_seconds)


def _ids(ids: list[int]) -> str:
    return f"file {ids[0]}" if len(ids) == 1 else f"{len(ids)} files ({ids[0]} to {ids[-1]})"


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=errors,
        transient=True,
    )


def files(
    status: Annotated[Status | None, typer.Option(help="Only files with this status.")] = None,
    search: Annotated[str, typer.Option(help="Only titles that contain this; #12 is the file with id 12.")] = "",
    queue: Annotated[str, typer.Option(help="Only files of this queue.", show_default=False)] = "",
    handler: Annotated[str, typer.Option(help="Only files of this handler.", show_default=False)] = "",
    limit: Annotated[int, typer.Option(help="Maximum number of files.", min=1, max=200)] = 20,
    cursor: Annotated[
        str | None, typer.Option(help="Cursor of the page: the value `older` of the previous page.")
    ] = None,
    home: Home = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List files, newest first."""
    selection = FileSelection(status, search, queue, handler)
    try:
        page = file_source(home, "files").page(selection, limit=limit, cursor=cursor, excerpts=not as_json)
    except InvalidCursor as error:
        fail(f"--cursor: the text {error}", 2)
    if as_json:
        print_json(page)
        return
    print_table(
        ["id", "status", "title", "queue", "requested", "worker", "object"],
        [
            [
                row.id,
                _status(row),
                row.title,
                row.queue,
                f"{row.created_at:%Y-%m-%d %H:%M:%S}",
                row.worker_id,
                row.s3_location,
            ]
            for row in page.items
        ],
    )
    if page.older:
        say(f"More: --cursor {page.older}")


def _status(row: FileRow) -> str:
    steps = f" {row.step}/{row.steps}" if row.status is Status.PROCESSING and row.steps else ""
    return f"{row.status}{steps}"


def download(
    file_id: Annotated[int, typer.Argument(metavar="ID", parser=file_id_argument, help="The file's id.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Path to write to; - is stdout.")] = None,
    home: Home = None,
) -> None:
    """Download a completed file."""
    source = file_source(home, "download")
    row = source.file(file_id)
    if row is None:
        fail(f"there is no file {file_id}", 1)
    if row.status is not Status.COMPLETED or row.s3_location is None:
        fail(f"file {file_id} is {row.status}: only a completed file can be downloaded", 1)
    target = output or _default_path(row.id, row.s3_location)
    try:
        size = _write(target, source.content(row, row.s3_location))
    except ObjectMismatch as error:
        fail(str(error), 1)
    except OSError as error:
        fail(f"{target}: {error.strerror}", 1)
    if str(output) != "-":
        say(f"{target}: {size} bytes")


def _default_path(file_id: int, key: str) -> Path:
    """Where a result is written to by default: its own name in the current folder.

    Who answers chooses the name, so it is never hidden, and only a name that filemill gives replaces a file.
    """
    name = Path(key).name
    if file_id_in_key(name) == file_id:
        return Path(name)
    path = Path(name if _PLAIN_NAME.fullmatch(name) else f"file-{file_id}")
    if path.exists():
        fail(f"{path} exists already: name the file to write to with --output", 1)
    return path


def _write(target: Path, parts: Iterator[bytes]) -> int:
    """Write the parts; returns the number of bytes. A file is replaced when its content is complete and checked."""
    if str(target) == "-":
        return _copy(parts, typer.get_binary_stream("stdout"))
    if target.exists() and not target.is_file():  # a pipe or a device
        with target.open("wb") as sink:
            return _copy(parts, sink)
    whole = target.resolve()
    partial = whole.with_name(f".filemill-{secrets.token_hex(8)}.part")
    try:
        with partial.open("xb") as sink:
            size = _copy(parts, sink)
        partial.replace(whole)
    finally:
        partial.unlink(missing_ok=True)
    return size


def _copy(parts: Iterator[bytes], sink: BinaryIO) -> int:
    return sum(sink.write(part) for part in parts)
