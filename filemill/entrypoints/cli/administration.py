"""`filemill migrate | prepare | topics | verify | doctor`."""

from typing import Annotated

import typer
from rich.text import Text

from filemill.adapters.kafka.admin import all_topics
from filemill.adapters.postgres.migrate import migrate_schema
from filemill.config.settings import load
from filemill.entrypoints import bootstrap
from filemill.entrypoints.cli.arguments import Home, principal
from filemill.entrypoints.cli.output import AsJson, console, fail, plain, print_json, print_table, say
from filemill.entrypoints.doctor import examine
from filemill.services import partitions
from filemill.services.partitions import CannotAddPartitions
from filemill.verification.report import VerificationReport


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(migrate)
    app.command()(prepare)
    app.command()(verify)
    app.command()(doctor)
    topics = typer.Typer(help="The pipeline's Kafka topics.", no_args_is_help=True)
    topics.command("list")(list_topics)
    topics.command("create")(create_topics)
    topics.command("add-partitions")(add_partitions)
    app.add_typer(topics, name="topics")


def migrate(home: Home = None) -> None:
    """Migrate the database schema to the latest revision. Several processes may run it at the same time."""
    settings = load(home=home)
    before, after = migrate_schema(settings)
    say(f"{settings.database_url}: {before or 'empty'} → {after}" if before != after else f"already at {after}")


def prepare(
    patience: Annotated[float, typer.Option(help="Seconds to wait for servers that are still starting.", min=0)] = 60,
    home: Home = None,
) -> None:
    """Prepare the servers: migrate the schema, create topics and bucket. Can be repeated."""
    bootstrap.prepare(load(home=home), timeout_seconds=patience)
    say("Schema, topics and bucket are ready.")


def list_topics(home: Home = None, *, as_json: AsJson = False) -> None:
    """List the pipeline's topics and their partitions."""
    settings = load(home=home)
    existing = bootstrap.kafka_admin(settings).topic_partitions()
    found = {name: existing.get(name) for name in all_topics(settings)}
    if as_json:
        print_json(found)
    else:
        print_table(["topic", "partitions"], [[name, count or "missing"] for name, count in found.items()])


def create_topics(home: Home = None, *, as_json: AsJson = False) -> None:
    """Create missing topics."""
    created = bootstrap.kafka_admin(load(home=home)).create_topics()
    if as_json:
        print_json({"created": created})
    else:
        say(f"Created {', '.join(created)}." if created else "All topics exist.")


def add_partitions(
    total: Annotated[int, typer.Argument(help="New number of partitions.", min=1)],
    topic: Annotated[str | None, typer.Option(help="Name of the topic; default: file.create.")] = None,
    home: Home = None,
) -> None:
    """Increase the number of partitions of a topic. Kafka cannot reduce it."""
    settings = load(home=home)
    name = topic or settings.topic_create
    try:
        engine = bootstrap.create_engine(settings, "topics")
        partitions.add_partitions(engine, bootstrap.kafka_admin(settings), name, total, principal())
    except CannotAddPartitions as error:
        fail(str(error), 2)
    say(f"{name} has {total} partitions.")


def verify(home: Home = None, *, as_json: AsJson = False) -> None:
    """Check the invariants of the pipeline on the servers. Exit code 1 if one is violated.

    Downloads and hashes every object, compares it with a fresh render, lists the bucket, and reads the topics and the
    dead letters. Takes a while on a large table.
    """
    settings = load(home=home)
    engine = bootstrap.create_engine(settings, "verify")
    report = bootstrap.verify(settings, engine)
    if as_json:
        print_json(as_document(report))
    else:
        _print_report(report)
    if not report.ok:
        raise typer.Exit(1)


def as_document(report: VerificationReport) -> dict[str, object]:
    """The document for --json."""
    return {
        "ok": report.ok,
        "lost": report.lost,
        **{name: getattr(report, name) for name in report.__struct_fields__ if name != "findings"},
        "findings": list(report.findings.values()),
    }


def _print_report(report: VerificationReport) -> None:
    facts = ["submitted", "completed", "failed", "cancelled", "in_flight", "objects"]
    asides = [
        "deleted",
        "foreign",
        "superseded",
        "leftovers",
        "open_uploads",
        "repeats",
        "duplicate_results",
        "dead_letters",
    ]
    asides += ["dead_letters_distinct", "unreadable_events"]
    print_table(
        ["", "count"],
        [[name.replace("_", " "), getattr(report, name)] for name in facts]
        + [[name.replace("_", " "), count] for name in asides if (count := getattr(report, name))],
    )
    say(f"Audit log: {report.audit_rows} rows; head {report.audit_head}.")
    for note in report.notes:
        say(f"Note: {note}.")
    for finding in report.findings.values():
        more = " …" if finding.count > len(finding.examples) else ""
        say(f"VIOLATED {finding.title}: {finding.count} ({', '.join(finding.examples)}{more})")
    say(f"{'All invariants hold' if report.ok else 'Invariants are violated'}; {report.seconds:.1f} s.")


def doctor(home: Home = None, *, as_json: AsJson = False) -> None:
    """Show what is missing and how to correct it. Exit code 1 if something is missing."""
    checks = examine(home)
    if as_json:
        print_json(checks)
    else:
        marks = {True: "ok     ", False: "MISSING", None: "–      "}
        for check in checks:
            console.print(Text(f"{marks[check.ok]}  {check.name}: {plain(check.found)}"))
            if check.remedy:
                console.print(Text(f"         → {check.remedy}"))
    if any(check.ok is False for check in checks):
        raise typer.Exit(1)
