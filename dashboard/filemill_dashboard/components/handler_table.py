"""The handlers of the running workers. Workers with different versions of a handler are flagged."""

from collections.abc import Sequence

from filemill.queries.handlers import HandlerView
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.grid import Column, TableRow, data_grid
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.views.plurals import counted

COLUMNS = [
    Column("name", "Handler"),
    Column("versions", "Versions", "chips", 150),
    Column("workers", "Workers", "number", 80),
    Column("queue", "Queue", "text", 90, hide_below=560),
    Column("content", "Content", "mono", 220, hide_below=900),
    Column("timeout", "Deadline", "seconds", 90, hide_below=640, title="Of an attempt; then its processes are killed"),
    Column("memory", "Memory", "bytes", 96, hide_below=760, title="Limit of an attempt"),
    Column("attempts", "Attempts", "number", 84, hide_below=760),
    Column("most", "At once", "number", 80, hide_below=820, title="Limit of one processor"),
]


def handler_table(handlers: Sequence[HandlerView] | None, *, stale: bool, workers_known: bool) -> None:
    """Draw the table, with a notice for each handler of which the workers have different versions.

    The number of workers is unknown while the states of workers are.
    """
    page_shell.section_heading("Handlers")
    show_notices("handler-mix", [_mix(one) for one in handlers or () if one.mixed])
    data_grid(
        "handlers",
        COLUMNS,
        [
            TableRow(
                one.name,
                {
                    "name": one.name,
                    "versions": [version.version for version in one.versions] or [one.version],
                    "workers": one.workers if workers_known else None,
                    "queue": one.queue or ("default" if one.name == "text" else "jobs"),
                    "content": one.content_type,
                    "timeout": one.timeout,
                    "memory": one.memory,
                    "attempts": one.attempts,
                    "most": one.max_concurrency,
                },
                tone="warn" if one.mixed else None,
            )
            for one in handlers or ()
        ],
        label="Handlers",
        empty=("No data yet", "Workers announce their handlers over Kafka, and the status sync stores them."),
        stale=stale,
    )


def _mix(handler: HandlerView) -> Notice:
    versions = ", ".join(f"{one.version} ({counted(one.workers, 'worker')})" for one in handler.versions)
    text = f"{versions}. Requests are checked against version {handler.version}. Install the same version everywhere."
    return Notice("warn", f"Workers have different versions of {handler.name}", text)
