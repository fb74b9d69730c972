"""What the commands about dead letters need: from Kafka and PostgreSQL, or through REST."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from filemill.config.settings import load
from filemill.domain.dead_letters import DeadLetter, DeadLetterFacts, ReplayRefusal, parse_place
from filemill.domain.queues import topic_of
from filemill.entrypoints import bootstrap
from filemill.entrypoints.cli.arguments import principal
from filemill.entrypoints.cli.output import fail, say
from filemill.entrypoints.cli.rest_client import RestClient, rest_client
from filemill.errors import InvalidRequest
from filemill.queries.dead_letters import KEPT_RECORDS, DeadLetterContent, chunks
from filemill.services import dead_letters
from filemill.services.dead_letters import BATCH_FILES, Replay
from filemill_dashboard.rest.records import DEAD_LETTERS_MAX


class DeadLetterSource(Protocol):
    """The dead letters of a deployment. Each method raises Unavailable."""

    def matching(self, reason: str | None, queue: str, *, still_broken: bool) -> list[DeadLetter]:
        """The dead letters whose reason contains this, of this queue if it is not "", oldest first."""

    def at(self, places: Sequence[str]) -> list[DeadLetter]:
        """The dead letters at these positions; ends the command if one does not exist."""

    def contents(self, letters: Sequence[DeadLetter]) -> list[DeadLetterContent | None]:
        """Their records; None: retention removed it."""

    def replay(self, letters: Sequence[DeadLetter], *, rate: float, dry_run: bool, max_runs: int) -> Replay:
        """Start a new run of each dead letter's file, at most `rate` files a second."""


def dead_letter_source(home: Path | None) -> DeadLetterSource:
    """Through REST if the environment names a dashboard."""
    client = rest_client(home)
    return DirectDeadLetters(home) if client is None else RestDeadLetters(client)


def documents(source: DeadLetterSource, letters: Sequence[DeadLetter]) -> Iterator[dict[str, object]]:
    """For --json: with payload, headers and stack trace, which the index does not keep; a few at a time in memory."""
    for chunk in chunks(letters):
        for letter, content in zip(chunk, source.contents(chunk), strict=True):
            fields = {
                name: getattr(letter, name) for name in (*DeadLetterFacts.__struct_fields__, "partition", "offset")
            }
            value = None if content is None else (content.value or b"").decode(errors="backslashreplace")
            headers, trace = ([], None) if content is None else (content.headers, content.trace)
            yield {**fields, "place": letter.place, "value": value, "headers": headers, "trace": trace}


class DirectDeadLetters:
    """Dead letters by the credentials of the servers."""

    def __init__(self, home: Path | None) -> None:
        self._settings = settings = load(home=home)
        self._admin = bootstrap.kafka_admin(settings)
        self.engine = bootstrap.create_engine(settings, "dlq")
        self._index = bootstrap.dead_letter_index(settings, self.engine)

    def matching(self, reason: str | None, queue: str, *, still_broken: bool) -> list[DeadLetter]:
        """See DeadLetterSource."""
        try:
            topic = topic_of(queue, self._settings.all_queues)
        except InvalidRequest as error:
            fail(f"--queue: {error.reason}", 2)
        found = self._index.read(self._admin)
        _say_truncated(truncated=found.truncated)
        return [
            letter
            for letter in found.items
            if (reason is None or reason.lower() in letter.reason.lower())
            and (letter.unresolved or not still_broken)
            and (not topic or letter.source_topic == topic)
        ]

    def at(self, places: Sequence[str]) -> list[DeadLetter]:
        """See DeadLetterSource."""
        found = self._index.find(self._admin, places)
        _check_found(places, found)
        return list({letter.key: letter for letter in found.values()}.values())

    def contents(self, letters: Sequence[DeadLetter]) -> list[DeadLetterContent | None]:
        """See DeadLetterSource."""
        return list(self._index.contents(self._admin, letters))

    def replay(self, letters: Sequence[DeadLetter], *, rate: float, dry_run: bool, max_runs: int) -> Replay:
        """See DeadLetterSource."""
        return dead_letters.replay(
            self.engine, letters, principal=principal(), rate=rate, dry_run=dry_run, max_runs=max_runs
        )


class _Item(DeadLetterFacts, frozen=True, kw_only=True):
    """A dead letter of REST. An older server gives no headers."""

    place: str
    value: str | None
    trace: str | None
    headers: list[tuple[str, str | None]] = msgspec.field(default_factory=list)

    def letter(self) -> DeadLetter:
        """With what a command needs; the rest is for the index, which the dashboard has."""
        place = parse_place(self.place) or (0, 0)
        facts = {name: getattr(self, name) for name in DeadLetterFacts.__struct_fields__}
        return DeadLetter(
            **facts,
            partition=place[0],
            offset=place[1],
            latest=place,
            key=hash(place),
            weight=self.size,
            order=(0, *place),
            refusal_code=None,
            latest_ms=0,
        )

    def content(self) -> DeadLetterContent | None:
        """The record."""
        return None if self.value is None else DeadLetterContent(self.value.encode(), self.headers, self.trace)


class _Page(msgspec.Struct, frozen=True):
    items: list[_Item]
    next_cursor: str | None
    truncated: bool


class _Replayed(msgspec.Struct, frozen=True):
    """An older server gives no codes."""

    reasons: dict[str, int]
    files: list[int]
    refused: dict[str, str]
    refusal_codes: dict[str, ReplayRefusal] = {}


class RestDeadLetters:
    """Dead letters as a dashboard shows them."""

    def __init__(self, client: RestClient) -> None:
        self._client = client
        self._contents: dict[str, DeadLetterContent | None] = {}

    def matching(self, reason: str | None, queue: str, *, still_broken: bool) -> list[DeadLetter]:
        """See DeadLetterSource. The dashboard has the newest first, and does not leave out dismissed ones."""
        try:
            pages = list(self._pages(reason=reason, queue=queue, still_broken=still_broken))
        except InvalidRequest as error:
            fail(f"--{error.field}: {error.reason}", 2)
        _say_truncated(truncated=bool(pages) and pages[0].truncated)
        found = [item for page in pages for item in page.items if not (still_broken and item.dismissed)]
        return [self._known(item) for item in reversed(found)]

    def at(self, places: Sequence[str]) -> list[DeadLetter]:
        """See DeadLetterSource. The dashboard has no search for a position: its list is read up to the last one."""
        wanted, found = set(places), dict[str, DeadLetter]()
        for page in self._pages():
            found |= {item.place: self._known(item) for item in page.items if item.place in wanted}
            if len(found) == len(wanted):
                break
        _check_found(places, found)
        return [found[place] for place in dict.fromkeys(places)]

    def contents(self, letters: Sequence[DeadLetter]) -> list[DeadLetterContent | None]:
        """See DeadLetterSource."""
        return [self._contents[letter.place] for letter in letters]

    def replay(self, letters: Sequence[DeadLetter], *, rate: float, dry_run: bool, max_runs: int) -> Replay:
        """See DeadLetterSource. Requests are sent in parts, at the wanted rate."""
        one_per_file = {letter.place if letter.refusal else letter.file_id: letter for letter in letters}
        places = [letter.place for letter in one_per_file.values()]
        result, reasons = Replay(dry_run, {}, [], {}, {}), Counter[str]()
        batch = DEAD_LETTERS_MAX if dry_run else max(1, min(BATCH_FILES, int(rate)))
        due = time.monotonic()
        for start in range(0, len(places), batch):
            time.sleep(max(0.0, due - time.monotonic()))
            body = {"places": places[start : start + batch], "dry_run": dry_run, "max_runs": max_runs}
            done = self._client.post("/api/dead-letters/replay", _Replayed, body)
            reasons.update(done.reasons)
            result.files.extend(done.files)
            result.refused.update(done.refused)
            result.refusal_codes.update(done.refusal_codes)
            due += 0.0 if dry_run else len(done.files) / rate
        return msgspec.structs.replace(result, reasons=dict(reasons.most_common()), files=sorted(result.files))

    def _known(self, item: _Item) -> DeadLetter:
        self._contents[item.place] = item.content()
        return item.letter()

    def _pages(self, **wanted: object) -> Iterator[_Page]:
        cursor: str | None = ""
        while cursor is not None:
            page = self._client.get("/api/dead-letters", _Page, **wanted, limit=DEAD_LETTERS_MAX, cursor=cursor)
            yield page
            cursor = page.next_cursor


def _say_truncated(*, truncated: bool) -> None:
    if truncated:
        say(f"Only the newest {KEPT_RECORDS:,} records of the topic are listed.")


def _check_found(places: Sequence[str], found: dict[str, DeadLetter]) -> None:
    missing = next((place for place in places if place not in found), None)
    if missing is not None:
        fail(f"there is no dead letter {missing}", 1)
