"""What each statement of a page means, and which truth it is compared with.

What is dimmed is declared to be of the past. It is only right while a server through which it is learned is away.
"""

import re
from collections.abc import Callable
from itertools import pairwise

from tests.browser.comparison import BEHIND_KAFKA, SERVER_SECONDS, SETTLE_SECONDS, Comparison, Moment
from tests.browser.statements import Banner, Table, number
from tests.browser.truth import GroupTruth, Span, TableTruth

# A partition counts as stalled after this time without a commit.
STALLED_SECONDS = 8.0
MONITOR_SILENT_SECONDS = 10.0
# The time in which a process reports that it has started, on a busy machine.
START_SECONDS = 15.0
# What cannot be true in this test.
NEVER = False

_UNREACHABLE = re.compile(r"^(?:You (?:stopped|killed) )?(Kafka|PostgreSQL|S3)(?: is unreachable| .*)?$")
_NUMBER = re.compile(r"\d[\d,]*")
_LIVE = ("busy", "idle", "stuck")
_STATUSES = ("pending", "processing", "completed", "failed", "cancelled")


def servers(found: Comparison, moment: Moment) -> None:
    """The names in the top bar."""
    for name in moment.truth.servers:
        tone = moment.page.servers.get(name, ("none", ""))[0]
        if tone == "good":
            found.claim(f"server {name}", tone, moment.answered(name), "unreachable")
        elif tone == "bad":
            found.claim(f"server {name}", tone, not moment.always_answered(name), "reachable")
    if moment.page.servers.get("Relay", ("none", ""))[0] == "good":
        found.claim("Relay", "good", not moment.blind, f"without {moment.blind}")


def banners(found: Comparison, moment: Moment) -> None:
    """Banners of servers, and advice."""
    shown = [banner for banner in moment.page.banners if not banner.inline]
    down = [name for name in moment.truth.servers if not moment.answered(name)]
    if down:
        titles = [banner.title for banner in shown]
        found.claim("one banner, which names the cause", titles, len(shown) == 1 and down[0] in titles[0], down)
    for banner in shown:
        named = _UNREACHABLE.match(banner.title)
        if named is not None:
            found.claim("a banner", banner.title, not moment.always_answered(named[1]), "reachable")
        else:
            _advice(found, moment, banner)
        found.claim("no advice to start the stack", banner.text, "filemill up" not in banner.text, "it runs")


def _advice(found: Comparison, moment: Moment, banner: Banner) -> None:
    rule = next((rule for pattern, rule in _ADVICE.items() if re.search(pattern, banner.title)), None)
    if rule is None:
        found.claim(f"advice: {banner.title}", banner.title, None)
    else:
        rule(found, moment, banner.title)


def _no_processor(found: Comparison, moment: Moment, title: str) -> None:
    found.any_of("advice", title, moment.processes, lambda one: not any(map(_is_processor, one)))


def _no_members(found: Comparison, moment: Moment, title: str) -> None:
    found.any_of("advice", title, moment.groups, lambda one: not one.group.members)


def _without_owner(found: Comparison, moment: Moment, title: str) -> None:
    partitions = set(_numbers(title))
    found.any_of("advice", title, moment.groups, lambda one: partitions <= one.unowned)


def _all_quiet(found: Comparison, moment: Moment, title: str) -> None:
    found.claim("advice", title, moment.quiet, "not quiet")


def _stalled(found: Comparison, moment: Moment, title: str) -> None:
    moved = [partition for partition in _numbers(title) if not moment.stood_still(partition, STALLED_SECONDS)]
    found.claim("advice", title, not moved, f"commits of {moved} advance")


def _no_sync(found: Comparison, moment: Moment, title: str) -> None:
    found.any_of("advice", title, moment.processes, lambda one: not any(name.startswith("sync-") for name in one))


def _monitor_silent(found: Comparison, moment: Moment, title: str) -> None:
    runs = any(name.startswith("monitor-") for name in moment.always_running(MONITOR_SILENT_SECONDS))
    served = all(moment.always_answered(name, MONITOR_SILENT_SECONDS) for name in BEHIND_KAFKA)
    found.claim("advice", title, not (runs and served), "it runs, and its servers answer")


def _idle_members(found: Comparison, moment: Moment, title: str) -> None:
    members, partitions = _numbers(title)[:2]
    found.any_of("advice", title, moment.groups, lambda one: (len(one.members), len(one.ends)) == (members, partitions))


def _no_partition_yet(found: Comparison, moment: Moment, title: str) -> None:
    found.any_of("advice", title, moment.groups, lambda one: any(not member.partitions for member in one.group.members))


def _in_outbox(found: Comparison, moment: Moment, title: str) -> None:
    found.number("advice about the outbox", str(_numbers(title)[0]), moment.table_spans(TableTruth.outbox_until))


# By a part of the title.
_ADVICE: dict[str, Callable[[Comparison, Moment, str], None]] = {
    r"^No file processor is running$": _no_processor,
    r"^The group has no members$": _no_members,
    r"without an owner$": _without_owner,
    r"quiet$": _all_quiet,
    r"stalled$": _stalled,
    r"^No status sync is active$": _no_sync,
    r"^The group monitor has": _monitor_silent,
    r"\d workers?, \d+ partitions?: .* idle$": _idle_members,
    r"no partition yet$": _no_partition_yet,
    r"in the outbox$": _in_outbox,
}


_COUNTS: dict[str, Callable[[TableTruth, TableTruth], Span]] = {
    "Accepted": lambda now, then: (now.total, then.total),
    "Outbox": TableTruth.outbox_until,
    "In progress": lambda now, then: now.status_until(then, "processing"),
    "Completed": lambda now, then: now.status_until(then, "completed"),
    "Failed": lambda now, then: now.status_until(then, "failed"),
}


def stages(found: Comparison, moment: Moment) -> None:
    """The stages of the pipeline from left to right."""
    for name, stage in moment.page.stages.items():
        if stage.stale:
            _declared_unknown(found, moment, f"stage {name}")
        elif name == "Backlog":
            found.number("Backlog", stage.value, moment.group_spans(GroupTruth.total_until))
            for partition, lag in stage.partitions.items():
                _lag(found, moment, partition, lag)
        else:
            found.number(name, stage.value, moment.table_spans(_COUNTS[name]))
        if name == "In progress" and not stage.stale and (pending := _NUMBER.match(stage.note)):
            found.number("pending", pending[0], moment.table_spans(lambda now, then: now.status_until(then, "pending")))


def _lag(found: Comparison, moment: Moment, partition: int, lag: str) -> None:
    known = [pair for pair in pairwise(moment.groups) if all(partition in one.ends for one in pair)]
    found.number(f"lag of P{partition}", lag, [now.lag_until(then, partition) for now, then in known])


def _declared_unknown(found: Comparison, moment: Moment, what: str) -> None:
    """After an outage, clients need some seconds to reconnect, and the monitor to sample the group again."""
    known = all(moment.always_answered(name, SERVER_SECONDS + SETTLE_SECONDS) for name in BEHIND_KAFKA)
    found.claim(f"{what}, dimmed or unknown", "unknown", not known, "all servers answer")


def group(found: Comparison, moment: Moment) -> None:
    """The facts about the consumer group."""
    facts = moment.page.facts.get("Consumer group")
    if facts is None:
        return
    lines, unknown = facts.lines, facts.lines["State"].startswith("unknown")
    if moment.blind:
        found.claim("the group is unknown", lines["State"], unknown and facts.stale, f"{moment.blind} is away")
    if facts.stale or unknown:
        _declared_unknown(found, moment, "group")
        return
    state, members = lines["State"], number(lines["Members"].split(",")[0])
    found.any_of("the group's state", state, moment.groups, lambda one: one.state == state)
    found.number("Total lag", lines["Total lag"], moment.group_spans(GroupTruth.total_until))
    pairs = [(one, running) for one in moment.groups for running in moment.processes]
    # The page leaves out the memberships of workers whose processes have ended.
    found.any_of(
        "Members",
        lines["Members"],
        pairs,
        lambda pair: members in (len(pair[0].members), len(pair[0].members & set(pair[1]))),
    )


def owners(found: Comparison, moment: Moment) -> None:
    """The table of members and partitions."""
    table = moment.page.tables.get("Partitions and their owners")
    if table is None:
        return
    if moment.blind:
        found.claim("the assignment is unknown", "dimmed" if table.stale else "current", table.stale, moment.blind)
    if table.stale:
        _declared_unknown(found, moment, "assignment")
        return
    for row in table.rows:
        member, owned = row["Member"], {int(name[1:]) for name, cell in row.items() if cell == "owned"}
        if member != "No owner":
            _has_membership(found, member, owned, moment.groups)
    partitions = {int(name[1:]) for row in table.rows[:1] for name in row if re.fullmatch(r"P\d+", name)}
    found.any_of("partitions of the topic", partitions, moment.groups, lambda one: set(one.ends) == partitions)


def _has_membership(found: Comparison, member: str, owned: set[int], groups: list[GroupTruth]) -> None:
    """A worker that was restarted has two memberships for some time, and two rows."""
    found.any_of(f"partitions of {member}", owned, groups, lambda one: owned in one.memberships(member))


def _owns(found: Comparison, kind: str, member: str, owned: set[int], groups: list[GroupTruth]) -> None:
    found.any_of(kind, owned, groups, lambda one: one.owned(member) == owned)


def queues(found: Comparison, moment: Moment) -> None:
    """The queue `default`; the others have no records in this test."""
    table = moment.page.tables.get("Queues")
    if table is None or table.stale:
        return
    for row in table.rows:
        if row["Queue"] == "default":
            found.number("backlog of default", row["Backlog"], moment.group_spans(GroupTruth.total_until))
            members = [len(one.group.members) for one in moment.groups]
            found.number("members of default", row["Members"], [(count, count) for count in members])
            found.number("outbox of default", row["Outbox"], moment.table_spans(TableTruth.outbox_until))
        else:
            found.claim(f"backlog of {row['Queue']}", row["Backlog"], row["Backlog"] in ("0", "–"), 0)


def roles(found: Comparison, moment: Moment) -> None:
    """Who holds each lease."""
    facts = moment.page.facts.get("Active roles")
    if facts is None or facts.stale:
        return
    for label, name in (("Outbox relay", "relay"), ("Status sync", "sync"), ("Group monitor", "monitor")):
        holder = facts.lines[label]
        if not holder.startswith(("unknown", "none", "–")):
            _holds(found, label, name, holder, moment.tables)


def _holds(found: Comparison, label: str, name: str, holder: str, tables: list[TableTruth]) -> None:
    found.any_of(label, holder, tables, lambda one: one.leases.get(name) == holder)


def workers(found: Comparison, moment: Moment) -> None:
    """The table of workers, and the tiles above it."""
    table = moment.page.tables.get("Workers")
    if table is None:
        return
    for row in table.rows:
        _worker(found, moment, row["Worker"], row["State"])
        if row["Partitions"] == "unknown":
            _declared_unknown(found, moment, f"partitions of {row['Worker']}")
        elif row["State"].startswith(_LIVE) and not table.stale and "+" not in row["Partitions"]:
            owned = {int(part[1:]) for part in row["Partitions"].split()}
            # The broker has the membership of the process before until its session has expired.
            if owned or not moment.restarted(row["Worker"], START_SECONDS):
                _owns(found, f"{row['Worker']} owns", row["Worker"], owned, moment.groups)
    listed = {row["Worker"] for row in table.rows}
    for name in filter(_is_processor, moment.always_running()):
        found.claim(f"{name} is listed", sorted(listed), name in listed, "its process runs")
    _worker_tiles(found, moment, table)


def _worker(found: Comparison, moment: Moment, name: str, text: str) -> None:
    state = text.split(" · ", maxsplit=1)[0]
    if moment.blind and state in (*_LIVE, "silent"):
        found.claim(f"the state of {name} is unknown", text, NEVER, f"{moment.blind} is away")
    runs = [name in one for one in moment.processes]
    if state in ("dead", "stopped"):
        found.claim(f"state of {name}", text, not all(runs), "its process runs")
    elif state == "suspended":
        suspended = any(name in one and one[name].suspended for one in moment.processes)
        found.claim(f"state of {name}", text, suspended, "it was not suspended")
    elif state == "unknown":
        _declared_unknown(found, moment, f"state of {name}")
    else:
        found.claim(f"state of {name}", text, any(runs), "it has no process")
    if "quiet" in text:
        found.claim(f"{name} is quiet", text, moment.quiet, "not quiet")


def _worker_tiles(found: Comparison, moment: Moment, table: Table) -> None:
    tiles = moment.page.tiles.get("Filter by state", {})
    living = [tiles.get(name.capitalize(), "–") for name in _LIVE]
    others = ("starting", "unknown", "silent", "suspended")
    if not table.stale and "–" not in living and not any(row["State"].startswith(others) for row in table.rows):
        # A process that has just started has not reported yet.
        least = sum(map(_is_processor, moment.always_running(START_SECONDS)))
        spans = [(least, sum(map(_is_processor, one))) for one in moment.processes]
        found.number("workers that run", str(sum(number(text) or 0 for text in living)), spans)


def files(found: Comparison, moment: Moment) -> None:
    """The list of files, its tiles and its downloads."""
    table, tiles = moment.page.tables.get("Files"), moment.page.tiles.get("Filter by status", {})
    if table is None or table.stale:
        return
    if "All files" in tiles:
        found.number("All files", tiles["All files"], moment.table_spans(_COUNTS["Accepted"]))
        for status in _STATUSES:
            _tile(found, moment, status, tiles[status.capitalize()])
    for row, actions in zip(table.rows, table.actions, strict=True):
        _file(found, moment, int(row["ID"]), (row["Status"], row["Title"]))
        for label, disabled, reason in actions:
            if label == "Download":
                _download(found, moment, disabled=disabled, reason=reason)


def _tile(found: Comparison, moment: Moment, status: str, text: str) -> None:
    found.number(f"{status} files", text, moment.table_spans(lambda now, then: now.status_until(then, status)))


def _file(found: Comparison, moment: Moment, file_id: int, stated: tuple[str, str]) -> None:
    pairs = [pair for pair in pairwise(moment.tables) if file_id in pair[1].files]
    status, title = stated
    found.any_of(
        f"file {file_id}",
        stated,
        pairs,
        lambda pair: pair[1].files[file_id][1] == title and pair[0].was_in_status(pair[1], file_id, status),
    )


def _download(found: Comparison, moment: Moment, *, disabled: bool, reason: str) -> None:
    stated = reason if disabled else "possible"
    if not moment.answered("S3"):
        found.claim("a download without S3", stated, disabled and bool(reason), "S3 is away")
    elif moment.always_answered("S3") and moment.always_answered("PostgreSQL"):
        found.claim("a download", stated, not disabled, "both servers answer")


def _is_processor(name: str) -> bool:
    return name.startswith("processor-")


def _numbers(text: str) -> list[int]:
    return [int(found.replace(",", "")) for found in _NUMBER.findall(text)]


ALL: list[Callable[[Comparison, Moment], None]] = [
    servers,
    banners,
    stages,
    group,
    owners,
    queues,
    roles,
    workers,
    files,
]
