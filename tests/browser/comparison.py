"""Counts the statements of pages that were compared with the truth, and collects the false ones.

A statement is false if it was not true at any moment of the period that it can be about. The period ends when the page
was read. It begins with the moment of the page's data, by the age that the page itself states, less the time that a
value may have waited before: in a cache, and in the group's case for the monitor's next sample. What has no truth to be
compared with is counted apart, and never as compared: also what disagrees with all samples of a period in which a
server did not answer, because what was true meanwhile is not known.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TypeVar

from tests.browser.statements import Statements, number
from tests.browser.truth import GroupTruth, ProcessTruth, Span, TableTruth, Truth

# The caches of a page keep a value for a second; reading and drawing take a moment.
TABLE_SECONDS = 2.0
# The monitor samples the group every two seconds.
GROUP_SECONDS = TABLE_SECONDS + 2.0
# A check of a server runs every two seconds, and one that does not answer is given up after some seconds.
SERVER_SECONDS = 7.0
# A page refreshes itself every two seconds.
REFRESH_SECONDS = 2.5
# After an outage, a page does not take silence for an end for this time (docs/pages.md).
SETTLE_SECONDS = 15.0
# A page is compared when all sources have been read after it.
DEFERRED_SECONDS = 2.0

_AGE = re.compile(r"updated ([0-9.]+) s ago")
BEHIND_KAFKA = ("Kafka", "PostgreSQL")

T = TypeVar("T")


class Moment:
    """A page that was read, with the truth of the period that its statements can be about."""

    def __init__(self, page: Statements, truth: Truth, age_seconds: float) -> None:
        self.page, self.truth = page, truth
        self._data_at = page.at - max(age_seconds, REFRESH_SECONDS)
        self.tables: list[TableTruth] = truth.tables.values(self._data_at - TABLE_SECONDS, page.until)
        self.groups: list[GroupTruth] = truth.kafka.values(self._data_at - GROUP_SECONDS, page.until)
        self.processes: list[dict[str, ProcessTruth]] = truth.processes.values(
            self._data_at - TABLE_SECONDS, page.until
        )

    @property
    def gap(self) -> bool:
        """Whether Kafka or PostgreSQL did not answer at some moment of the period: then the samples are not all."""
        seconds = self.page.at - self._data_at + GROUP_SECONDS
        return not all(self.always_answered(name, seconds) for name in BEHIND_KAFKA)

    @property
    def quiet(self) -> bool:
        """Whether the workers were quiet."""
        return self.truth.was_quiet(self._data_at - GROUP_SECONDS, self.page.until)

    def table_spans(self, span: Callable[[TableTruth, TableTruth], Span]) -> list[Span]:
        """What a number of the tables can have been, between each two samples."""
        return [span(now, then) for now, then in pairwise(self.tables)]

    def group_spans(self, span: Callable[[GroupTruth, GroupTruth], Span]) -> list[Span]:
        """What a number of the group can have been, between each two samples with the same partitions."""
        return [span(now, then) for now, then in pairwise(self.groups) if now.ends.keys() == then.ends.keys()]

    def stood_still(self, partition: int, seconds: float) -> bool:
        """Whether, at any moment of the period, a partition had had no commit for this time."""
        start = self._data_at - GROUP_SECONDS
        found = [
            (sample, sample.value.committed.get(partition))
            for sample in self.truth.kafka.between(start - seconds, self.page.until)
            if sample.value is not None
        ]
        return any(
            len(
                {offset for other, offset in found if other.ended >= last.began - seconds and other.began <= last.began}
            )
            == 1
            for last, _ in found
            if last.ended >= start
        )

    def always_running(self, seconds: float = SERVER_SECONDS) -> set[str]:
        """The workers whose processes ran all the time in the last seconds."""
        found = self.truth.processes.values(self.page.at - seconds, self.page.until)
        return set.intersection(*map(set, found)) if found else set()

    def restarted(self, worker: str, seconds: float) -> bool:
        """Whether a worker's process ended or was replaced in the last seconds."""
        found = self.truth.processes.values(self.page.at - seconds, self.page.until)
        return len({one[worker].pid if worker in one else None for one in found}) > 1

    def answered(self, name: str, seconds: float = SERVER_SECONDS) -> bool:
        """Whether a server answered at any moment of the last seconds."""
        samples = self.truth.servers[name].between(self.page.at - seconds, self.page.until)
        return any(sample.value is not None for sample in samples)

    def always_answered(self, name: str, seconds: float = SERVER_SECONDS) -> bool:
        """Whether a server answered all the time in the last seconds."""
        samples = self.truth.servers[name].between(self.page.at - seconds, self.page.until)
        return all(sample.value is not None for sample in samples)

    @property
    def blind(self) -> str:
        """A server without which the state of Kafka cannot be known, and which has not answered for some time."""
        return next((name for name in BEHIND_KAFKA if not self.answered(name)), "")

    @property
    def sighted(self) -> bool:
        """Whether everything that is learned through Kafka can be known."""
        return all(self.always_answered(name) for name in BEHIND_KAFKA)


class Comparison:
    """The false statements of all pages, and how many statements were compared in each step.

    `rules` compare all statements of a page, by the methods of this object.
    """

    def __init__(self, truth: Truth, rules: Iterable[Callable[["Comparison", Moment], None]]) -> None:
        self.truth = truth
        self.step = ""
        self.compared: Counter[str] = Counter()
        self.not_compared: Counter[str] = Counter()
        self.false: list[str] = []
        self._rules = list(rules)
        self._waiting: list[tuple[str, Statements]] = []
        self._began = time.monotonic()
        self._where = ""
        self._gap = False  # there were moments of the period at which nobody could know the truth
        self._reported: set[tuple[str, str, str]] = set()

    def claim(self, kind: str, stated: object, true: bool | None, truth: object = "") -> None:
        """Count a statement. `true` is None if there is nothing to compare it with."""
        if true is None:
            self.not_compared[f"{self.step}: {kind}"] += 1
            return
        self.compared[self.step] += 1
        if not true and (self.step, kind, str(stated)) not in self._reported:
            self._reported.add((self.step, kind, str(stated)))
            self.false.append(f"{self.step}{self._where}: {kind} is stated as {stated!r}, and was {truth!r}")

    def any_of(self, kind: str, stated: object, values: Iterable[T], is_true: Callable[[T], object]) -> None:
        """A statement that is true if one of these values makes it true."""
        known = list(values)
        true = any(is_true(value) for value in known)
        self.claim(kind, stated, None if not known or (self._gap and not true) else true, known[:1])

    def number(self, kind: str, text: str, spans: Iterable[Span]) -> None:
        """A number that must be one that a value can have had between two samples."""
        known, stated = list(spans), number(text)
        if text in ("–", "") or not known:
            self.claim(kind, text, None)
        else:
            true = stated is not None and any(least <= stated <= most for least, most in known)
            self.claim(kind, text, None if self._gap and not true else true, sorted(set(known)))

    def note(self, page: Statements) -> Statements:
        """Take a page to be compared once the truth about its moment is known."""
        self._waiting.append((self.step, page))
        self.settle(DEFERRED_SECONDS)
        return page

    def settle(self, older_than_seconds: float = 0.0) -> None:
        """Compare the pages that were read longer ago."""
        now, step = time.monotonic(), self.step
        while self._waiting and now - self._waiting[0][1].until >= older_than_seconds:
            self.step, page = self._waiting.pop(0)
            self._where = f", {page.until - self._began:.1f} s, {page.path}, {page.age}"
            self._compare(page)
        self.step, self._where = step, ""

    def _compare(self, page: Statements) -> None:
        self.claim("a page", "blank" if page.blank else "drawn", not page.blank)
        match = _AGE.fullmatch(page.age)
        if match is not None:
            moment = Moment(page, self.truth, float(match[1]))
            self._gap = moment.gap
            for rule in self._rules:
                rule(self, moment)
            self._gap = False
