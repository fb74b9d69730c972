"""What a page states: its tables, facts, counts and banners as text, read in one moment."""

import re
import time
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Page

# All components draw into shadow roots.
READ = """() => {
  const roots = [document];
  for (const root of roots)
    for (const node of root.querySelectorAll("*")) if (node.shadowRoot) roots.push(node.shadowRoot);
  const all = (selector) => roots.flatMap((root) => [...root.querySelectorAll(selector)])
    .filter((node) => node.checkVisibility());
  const text = (node) => node?.textContent.trim() ?? "";
  const stale = (node) => node.closest(".stale") !== null;
  const pairs = (node, each, name, value) =>
    [...node.querySelectorAll(each)].map((one) => [text(one.querySelector(name)), text(one.querySelector(value))]);
  const titled = (selector) => all(selector).map((node) => [node, text(node.parentNode.querySelector("h2"))]);
  const cell = (node) => node.querySelector(".chip")
    ? [...node.querySelectorAll(".chip")].map(text).join(" ")
    : node.querySelector("[aria-label=owned]") ? "owned" : text(node.querySelector("th > span") ?? node);
  return {
    path: location.pathname + location.search,
    blank: document.getElementById("root")?.childElementCount === 0,
    age: text(all(".age")[0]),
    servers: all(".server").map((node) => [text(node), node.className, node.title]),
    notices: all(".notice").map((node) => [text(node.querySelector(".title")), text(node.querySelector(".text")),
      text(node.querySelector("button:not([hidden])")), node.closest(".inline") !== null]),
    tables: all("table").map((table) => ({
      label: table.getAttribute("aria-label") ?? "",
      stale: stale(table),
      columns: [...table.tHead.rows[0].cells].map((node) => text(node)),
      rows: [...table.tBodies[0].rows].map((row) => [...row.cells].map(cell)),
      actions: [...table.tBodies[0].rows].map((row) => [...row.querySelectorAll(".actions button, .actions a")]
        .map((node) => [text(node), node.getAttribute("aria-disabled") === "true", node.title])),
    })),
    stages: all(".stage").filter((node) => node.querySelector(":scope > .value, :scope > .row")).map((stage) => ({
      name: text(stage.querySelector(".name") ?? stage.querySelector(".label")),
      value: text(stage.querySelector(".value")),
      note: text(stage.querySelector(".note")),
      more: text(stage.querySelector(".more")),
      stale: stale(stage),
      partitions: [...stage.querySelectorAll(".partition")].map((node) => node.title),
    })),
    facts: titled("dl.facts").map(([list, title]) => ({
      title, stale: stale(list),
      lines: pairs(list, ".fact", "dt", "dd"),
    })),
    tiles: all(".tiles").map((group) => ({
      label: group.getAttribute("aria-label"), stale: stale(group),
      values: pairs(group, ".tile", ".name", ".value"),
    })),
    bars: all(".bars").map((group) => ({
      label: group.getAttribute("aria-label"),
      values: pairs(group, ".bar", ".name", ".count"),
    })),
  };
}"""
_PARTITION = re.compile(r"partition (\d+): (.*)")


@dataclass(frozen=True)
class Table:
    """A table by its column names. `actions`: label, whether it is disabled, and the tooltip, of each row's buttons."""

    rows: list[dict[str, str]]
    actions: list[list[tuple[str, bool, str]]]
    stale: bool


@dataclass(frozen=True)
class Stage:
    """A stage of the pipeline. `partitions` has the lag of each partition."""

    value: str
    note: str
    more: str
    stale: bool
    partitions: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """A list of names and values."""

    lines: dict[str, str]
    stale: bool


@dataclass(frozen=True)
class Banner:
    """A banner. `inline`: it is the outcome of an action on a line of the page, not a statement about now."""

    title: str
    text: str
    button: str
    inline: bool


@dataclass(frozen=True)
class Statements:
    """Everything that a page states at the moment `at`, in monotonic seconds; it was read by `until`."""

    at: float
    until: float
    path: str
    blank: bool
    age: str
    servers: dict[str, tuple[str, str]]
    banners: list[Banner]
    tables: dict[str, Table]
    stages: dict[str, Stage]
    facts: dict[str, Facts]
    tiles: dict[str, dict[str, str]]
    bars: dict[str, dict[str, str]]


def read_page(page: Page) -> Statements:
    """Read a page, in one evaluation, so that all statements are of one moment."""
    at = time.monotonic()
    found: dict[str, Any] = page.evaluate(READ)
    return Statements(
        at=at,
        until=time.monotonic(),
        path=found["path"],
        blank=found["blank"],
        age=found["age"],
        servers={name: (_tone(classes), detail) for name, classes, detail in found["servers"]},
        banners=[Banner(*one) for one in found["notices"]],
        tables={one["label"]: _table(one) for one in found["tables"]},
        stages={one["name"]: _stage(one) for one in found["stages"]},
        facts={one["title"]: Facts(dict(one["lines"]), one["stale"]) for one in found["facts"]},
        tiles={one["label"]: dict(one["values"]) for one in found["tiles"]},
        bars={one["label"]: dict(one["values"]) for one in found["bars"]},
    )


def number(text: str) -> int | None:
    """The number of a cell, such as 1,234; None if it is a dash or no number."""
    digits = text.replace(",", "").strip()
    return int(digits) if digits.isdecimal() else None


def _tone(classes: str) -> str:
    return classes.rsplit("tone-", 1)[-1].split(maxsplit=1)[0]


def _table(found: dict[str, Any]) -> Table:
    rows = [dict(zip(found["columns"], cells, strict=False)) for cells in found["rows"]]
    return Table(rows, [[tuple(one) for one in some] for some in found["actions"]], found["stale"])


def _stage(found: dict[str, Any]) -> Stage:
    matches = [_PARTITION.fullmatch(text) for text in found["partitions"]]
    lags = {int(one[1]): one[2] for one in matches if one is not None}
    return Stage(found["value"], found["note"], found["more"], found["stale"], lags)
