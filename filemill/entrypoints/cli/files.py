"""`filemill submit | files | download`."""

import secrets
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import sqlalchemy as sa
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from filemill.adapters.postgres.file_rows import FileRow
from filemill.config.settings import Settings, load
from filemill.domain.cursors import InvalidCursor
from filemill.domain.file_actions import FileSelection
from filemill.domain.files import NewFile, Status, new_file
from filemill.domain.handlers import TEXT_HANDLER
from filemill.domain.idempotency import KeyReused, parse_key
from filemill.domain.integrity import ExpectedObject, ObjectMismatch
from filemill.entrypoints import bootstrap
from filemill.entrypoints.cli.arguments import Home, file_id_argument, principal
from filemill.entrypoints.cli.output import AsJson, errors, fail, print_json, print_table, say
from filemill.errors import InvalidRequest, NotFound, Unavailable
from filemill.queries.files import count_statuses_of, get_file, list_files
from filemill.services.job_requests import encode_parameters, parse_parameters
from filemill.services.submissions import Submissions

POLL_SECONDS = 0.1
SUBMIT_ROWS = 1000
# Pauses before a retry. If the server is unreachable for longer, the command ends.
RETRY_SECONDS = (0.5, 1.0)


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
    settings = load(home=home)
    try:
        request = msgspec.structs.replace(
            new_file(title, description), handler=handler, parameters=_parameters(parameters), queue=queue
        )
        key = parse_key(key) if key is not None else secrets.token_hex(16)
    except InvalidRequest as error:
        fail(str(error), 2)
    engine = bootstrap.create_engine(settings, "submit")
    with _progress() as progress:
        ids = _submit(settings, engine, request, count, key, progress)
        counts = _wait_for(engine, ids, timeout, progress) if wait else None
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


def _submit(
    settings: Settings, engine: sa.Engine, request: NewFile, count: int, key: str, progress: Progress
) -> list[int]:
    """Submit the requests in parts, each with its own key, so that a part whose response was lost can be retried."""
    task = progress.add_task("accepted", total=count)
    submissions = Submissions(engine, queues=list(settings.all_queues))
    ids: list[int] = []
    try:
        while len(ids) < count:
            part = [request] * min(SUBMIT_ROWS, count - len(ids))
            ids += _submit_part(submissions, part, f"{key} {count} {len(ids)}" if count > 1 else key)
            progress.update(task, completed=len(ids))
    except (KeyReused, InvalidRequest) as error:
        fail(str(error), 2)
    except Unavailable as error:
        command = f"filemill submit … --idempotency-key {key}"
        fail(f"{error}\nThe requests may have been accepted. To retry safely, repeat the command: {command}", 3)
    return ids


def _submit_part(submissions: Submissions, files: list[NewFile], key: str) -> list[int]:
    for pause in RETRY_SECONDS:
        try:
            return submissions.submit_many_once(files, key, principal=principal())
        except Unavailable:
            time.sleep(pause)
    return submissions.submit_many_once(files, key, principal=principal())


def _wait_for(engine: sa.Engine, ids: list[int], timeout: float, progress: Progress) -> dict[Status, int]:
    """Count the statuses until all are final, or the time is up."""
    task = progress.add_task("finished", total=len(ids))
    deadline = time.monotonic() + timeout
    while True:
        with engine.connect() as connection:
            counts = count_statuses_of(connection, ids)
        finished = sum(number for status, number in counts.items() if status.terminal)
        progress.update(task, completed=finished)
        if finished == len(ids):
            return counts
        if time.monotonic() > deadline:
            say(f"Timed out after {timeout:g} s.")
            return counts
        time.sleep(POLL_SECONDS)


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
    engine = bootstrap.create_engine(load(home=home), "files")
    try:
        with engine.connect() as connection:
            selection = FileSelection(status, search, queue, handler)
            page = list_files(connection, selection, limit=limit, cursor=cursor, excerpts=not as_json)
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
    settings = load(home=home)
    with bootstrap.create_engine(settings, "download").connect() as connection:
        row = get_file(connection, file_id)
    if row is None:
        fail(f"there is no file {file_id}", 1)
    if row.status is not Status.COMPLETED or row.s3_location is None:
        fail(f"file {file_id} is {row.status}: only a completed file can be downloaded", 1)
    body = _fetch(settings, row, row.s3_location)
    if str(output) == "-":
        typer.get_binary_stream("stdout").write(body)
        return
    target = output or Path(Path(row.s3_location).name)
    try:
        target.write_bytes(body)
    except OSError as error:
        fail(f"{target}: {error.strerror}", 1)
    say(f"{target}: {len(body)} bytes")


def _fetch(settings: Settings, row: FileRow, key: str) -> bytes:
    try:
        expected = ExpectedObject(row.id, key, row.sha256, row.size)
        body = bootstrap.bucket(settings).read(key)
        expected.check(body)
    except ObjectMismatch as error:
        fail(str(error), 1)
    except NotFound:
        fail(f"the bucket {settings.s3_bucket} at {settings.s3_endpoint} has no object {key}", 1)
    return body
