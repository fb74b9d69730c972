"""The handlers `table`, `table-parquet` and `table-xlsx`: the result of a query by DuckDB.

The query reads the table `rows`, made of the parameters, and a table for each input, by its name. It cannot read or
write other files, and opens no connection.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from filemill.handlers import Job, PermanentError, handler

if TYPE_CHECKING:
    import duckdb

BATCH_ROWS = 2000
_READERS = {".csv": "read_csv", ".parquet": "read_parquet", ".json": "read_json", ".jsonl": "read_json"}
_LIMITS: dict[str, Any] = {"timeout": 300, "memory": "2 GiB", "disk": "4 GiB", "attempts": 2}


class Table(msgspec.Struct, forbid_unknown_fields=True):
    """`sql` is one query. `rows` become the table `rows`."""

    sql: Annotated[str, msgspec.Meta(min_length=1, max_length=100_000)]
    rows: list[dict[str, Any]] = []


# The same query may give its rows in another order, or use the current time.
@handler("table", content_type="text/csv; charset=utf-8", extension="csv", deterministic=False, **_LIMITS)
def table(job: Job[Table]) -> Path:
    """The result as CSV."""
    target = job.folder / "result.csv"
    _query(job).write_csv(str(target), header=True)
    return target


@handler(
    "table-parquet",
    content_type="application/vnd.apache.parquet",
    extension="parquet",
    deterministic=False,
    **_LIMITS,
)
def table_parquet(job: Job[Table]) -> Path:
    """The result as Parquet."""
    target = job.folder / "result.parquet"
    _query(job).write_parquet(str(target))
    return target


@handler(
    "table-xlsx",
    content_type="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    extension="xlsx",
    deterministic=False,
    **_LIMITS,
)
def table_xlsx(job: Job[Table]) -> Path:
    """The result as an Excel workbook. A text stays a text: none becomes a formula or a link."""
    import xlsxwriter  # type: ignore[import-untyped]  # noqa: PLC0415

    target = job.folder / "result.xlsx"
    # Fixed settings: rows are written as they come, and no text becomes a formula or a link.
    options = {
        "constant_memory": True,
        "strings_to_formulas": False,
        "strings_to_urls": False,
        "remove_timezone": True,
        "nan_inf_to_errors": True,
        "tmpdir": str(job.folder),
    }
    cursor = _cursor(job)
    with xlsxwriter.Workbook(str(target), options) as book:
        sheet = book.add_worksheet("result")
        sheet.write_row(0, 0, [column[0] for column in cursor.description or ()])
        number = 0
        while batch := cursor.fetchmany(BATCH_ROWS):
            for row in batch:
                number += 1
                sheet.write_row(number, 0, [_cell(value) for value in row])
    return target


def _cursor(job: Job[Table]) -> "duckdb.DuckDBPyConnection":
    """The query, to be read in batches."""
    import duckdb  # noqa: PLC0415

    connection = _connect(job)
    try:
        return connection.execute(job.parameters.sql)
    except duckdb.Error as error:
        raise PermanentError(f"The query cannot be run: {error}") from None


def _query(job: Job[Table]) -> "duckdb.DuckDBPyRelation":
    """The query, to be written to a file."""
    import duckdb  # noqa: PLC0415

    connection = _connect(job)
    try:
        relation = connection.sql(job.parameters.sql)
    except duckdb.Error as error:
        raise PermanentError(f"The query cannot be run: {error}") from None
    if relation is None:
        raise PermanentError("The query has no result: write one SELECT")
    return relation


def _cell(value: object) -> object:
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _connect(job: Job[Table]) -> "duckdb.DuckDBPyConnection":
    """A database with the tables, which can reach nothing else."""
    import duckdb  # noqa: PLC0415

    connection = duckdb.connect(":memory:", config={"threads": 1, "memory_limit": "1GB", "temp_directory": ""})
    try:
        if job.parameters.rows:
            source = job.folder / "rows.json"
            source.write_bytes(msgspec.json.encode(job.parameters.rows))
            _load(connection, "rows", source, "read_json")
            source.unlink()
        for name, path in job.inputs.items():
            reader = _READERS.get(path.suffix.lower())
            if reader is None:
                raise PermanentError(f'The input "{name}" must be named like data.csv, .parquet, .json or .jsonl')
            _load(connection, Path(name).stem, path, reader)
        connection.execute("SET allowed_directories = $1", [[str(job.folder)]])
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        job.progress(0.3, "tables loaded")
    except duckdb.Error as error:
        raise PermanentError(f"The tables cannot be made: {error}") from None
    return connection


def _load(connection: "duckdb.DuckDBPyConnection", name: str, path: Path, reader: str) -> None:
    quoted = name.replace('"', '""')
    connection.execute(f'CREATE TABLE "{quoted}" AS SELECT * FROM {reader}($1)', [str(path)])  # noqa: S608 - quoted
