"""`filemill run ROLE`: one process of the pipeline. Containers and the supervisor start it."""

import enum
from typing import Annotated, get_args

import typer

from filemill.config import logging, settings
from filemill.entrypoints import roles
from filemill.entrypoints.cli.arguments import Home

PROTOCOLS = "Group protocol: " + ", ".join(get_args(settings.GroupProtocol))

Role = enum.StrEnum("Role", list(roles.ROLES))  # type: ignore[misc]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(run)


def run(
    role: Annotated[Role, typer.Argument(help="The process to run.")],
    worker_id: Annotated[str | None, typer.Option(help="Name of this process; must be unique.")] = None,
    processing_seconds: Annotated[
        float | None, typer.Option(help="Simulated processing time per file, in seconds (processor).", min=0)
    ] = None,
    concurrency: Annotated[int | None, typer.Option(help="Records processed at a time (processor).", min=1)] = None,
    ordering: Annotated[
        str | None, typer.Option(help="unordered, or partition: one record at a time per partition (processor).")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help=f"{PROTOCOLS} (processor, monitor).", show_default="consumer")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (dashboard).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (dashboard).", min=0, max=65535)] = None,
    home: Home = None,
) -> None:
    """Run one process until it is told to stop (SIGTERM, Ctrl-C). Settings come from the environment."""
    settings_in_force = settings.load(
        worker_id=worker_id,
        processing_seconds=processing_seconds,
        concurrency=concurrency,
        ordering=ordering,
        group_protocol=protocol,
        host=host,
        port=port,
        home=home,
    )
    logging.configure(settings_in_force, str(role))
    roles.ROLES[str(role)](settings_in_force)
