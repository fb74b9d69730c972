"""`filemill submit | files | download`."""

import secrets
import time
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from filemill.adapters.postgres.file_rows import FileRow
from filemill.adapters.postgres.tables import File
from filemill.adapters.s3.admin import read_object
from filemill.config.settings import Settings, load
from filemill.domain.cursors import InvalidCursor
from filemill.domain.files import InvalidRequest, NewFile, Status, new_file
from filemill.domain.idempotency import KeyReused, parse_key
from filemill.domain.integrity import ExpectedObject, ObjectMismatch
from filemill.entrypoints import bootstrap
from filemill.entrypoints.cli.arguments import file_id_argument
from filemill.entrypoints.cli.output import AsJson, errors, fail, print_json, print_table, say
from filemill.errors import NotFound, Unavailable
from filemill.queries.files import get_file, list_files
from filemill.services.submissions import Submissions

POLL_SECONDS = 0.1
SUBMIT_ROWS = 1000
# A server that is unreachable for longer than this is for the user to know.
RETRY_SECONDS = (0.5, 1.0)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(submit)
    app.command("files")(files)
    app.command()(download)


def submit(
    title: Annotated[str, typer.Argument(help="The file's title, 1 to 255 characters.")],
    description: Annotated[str, typer.Option("--description", "-d", help="Text, up to 64 KiB.")] = "",
    count: Annotated[int, typer.Option(help="How many files to ask for, all alike.", min=1, max=1_000_000)] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds that --wait waits at most.", min=0)] = 600,
    key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key",
            help="Accept these requests once, however often the command is run with this key within 24 hours.",
            show_default=False,
        ),
    ] = None,
    *,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until all have ended; exit 1 unless all completed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Ask for a file, or for many."""
    settings = load()
    try:
        request = new_file(title, description)
        key = parse_key(key) if key is not None else secrets.token_hex(16)
    except InvalidRequest as error:
        fail(str(error), 2)
    engine = bootstrap.create_engine(settings, "submit")
    with _progress() as progress:
        ids = _accept(engine, request, count, key, progress)
        counts = _wait_for(engine, ids, timeout, progress) if wait else None
    if as_json:
        print_json({"submitted": len(ids), "ids": ids, "statuses": counts})
    elif counts is None:
        say(f"Accepted {_ids(ids)}.")
    else:
        say(f"{_ids(ids)}: " + ", ".join(f"{number} {status}" for status, number in counts.items()))
    if counts is not None and counts.get(Status.COMPLETED, 0) < len(ids):
        raise typer.Exit(1)


def _accept(engine: sa.Engine, request: NewFile, count: int, key: str, progress: Progress) -> list[int]:
    """Accept them in parts, each with a key of its own, so that a part whose answer got lost can be sent again."""
    task = progress.add_task("accepted", total=count)
    ids: list[int] = []
    try:
        while len(ids) < count:
            some = [request] * min(SUBMIT_ROWS, count - len(ids))
            ids += _accept_part(engine, some, f"{key} {count} {len(ids)}" if count > 1 else key)
            progress.update(task, completed=len(ids))
    except KeyReused as error:
        fail(str(error), 2)
    except Unavailable as error:
        again = f"filemill submit … --idempotency-key {key}"
        fail(f"{error}\nThe requests may have been accepted. To retry safely, repeat the command: {again}", 3)
    return ids


def _accept_part(engine: sa.Engine, files: list[NewFile], key: str) -> list[int]:
    for pause in RETRY_SECONDS:
        try:
            return Submissions(engine).submit_many_once(files, key)
        except Unavailable:
            time.sleep(pause)
    return Submissions(engine).submit_many_once(files, key)


def _wait_for(engine: sa.Engine, ids: list[int], timeout: float, progress: Progress) -> dict[str, int]:
    """Count the statuses until none is unfinished, or time is up."""
    task = progress.add_task("finished", total=len(ids))
    deadline = time.monotonic() + timeout
    query = (
        sa.select(File.status, sa.func.count().label("files"))
        .where(File.id.between(ids[0], ids[-1]), File.id == sa.func.any(sa.bindparam("ids", ids)))
        .group_by(File.status)
    )
    while True:
        with engine.connect() as connection:
            counts: dict[str, int] = {row.status: row.files for row in connection.execute(query)}
        finished = sum(number for status, number in counts.items() if Status(status).terminal)
        progress.update(task, completed=finished)
        if finished == len(ids):
            return counts
        if time.monotonic() > deadline:
            say(f"Gave up waiting after {timeout:g} s.")
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
    status: Annotated[Status | None, typer.Option(help="Only these.")] = None,
    search: Annotated[str, typer.Option(help="Only titles that contain this; #12 is the file 12.")] = "",
    limit: Annotated[int, typer.Option(help="At most this many.", min=1, max=200)] = 20,
    cursor: Annotated[str | None, typer.Option(help="Go on from here (`older` of the page before).")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List files, newest first."""
    engine = bootstrap.create_engine(load(), "files")
    try:
        with engine.connect() as connection:
            page = list_files(
                connection, status=status, search=search, limit=limit, cursor=cursor, excerpts=not as_json
            )
    except InvalidCursor as error:
        fail(f"--cursor: the text {error}", 2)
    if as_json:
        print_json(page)
        return
    print_table(
        ["id", "status", "title", "requested", "worker", "object"],
        [
            [row.id, _status(row), row.title, f"{row.created_at:%Y-%m-%d %H:%M:%S}", row.worker_id, row.s3_location]
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
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to; - is stdout.")] = None,
) -> None:
    """Download a completed file."""
    settings = load()
    with bootstrap.create_engine(settings, "download").connect() as connection:
        row = get_file(connection, file_id)
    if row is None:
        fail(f"there is no file {file_id}", 1)
    if row.status is not Status.COMPLETED or row.s3_location is None:
        fail(f"file {file_id} is {row.status}: only a completed one can be downloaded", 1)
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
        body = read_object(settings, key)
        expected.check(body)
    except ObjectMismatch as error:
        fail(str(error), 1)
    except NotFound:
        fail(f"the bucket {settings.s3_bucket} at {settings.s3_endpoint} has no object {key}", 1)
    return body
