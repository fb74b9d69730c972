// The pipeline from left to right. Unknown is a dash, never a zero.
// More partitions than this are bars side by side; their numbers are in the tool tips.
const LANES_WITH_NAMES = 3;

export default function ({ data, parentElement }) {
  const state = instance(parentElement, (root) => {
    const strip = el("div", { class: "strip" });
    root.append(strip);
    return { strip };
  });
  setAttribute(state.strip, "class", data.old ? "strip old" : "strip");
  const parts = data.stages.flatMap((stage, place) =>
    place ? [{ name: `arrow-${place}`, arrow: true }, stage] : [stage],
  );
  reconcile(state.strip, parts, (part) => part.name, makePart, updatePart);
}

function makePart(part) {
  if (part.arrow) return el("span", { class: "arrow", "aria-hidden": "true" }, "→");
  if (part.ends) return el("div", { class: "ends" });
  return makeStage();
}

function makeStage() {
  return el(
    "div",
    {},
    el("div", { class: "label" }),
    el("div", { class: "value" }),
    el("div", { class: "note" }),
    el("div", { class: "lanes" }),
    el("div", { class: "note more" }),
  );
}

function updatePart(node, part) {
  if (part.arrow) return;
  if (part.ends) {
    reconcile(node, part.ends, (end) => end.name, makeEnd, updateEnd);
    return;
  }
  setAttribute(node, "class", `stage${part.lanes ? " wide" : ""}${part.tone ? ` hot tone-${part.tone}` : ""}`);
  setAttribute(node, "title", part.title);
  const [label, value, note, lanes, more] = node.children;
  setText(label, part.name);
  setText(value, count(part.value));
  setText(note, part.note);
  setText(more, part.more);
  more.hidden = !part.lanes;
  lanes.hidden = !part.lanes;
  setAttribute(lanes, "class", (part.lanes ?? []).length > LANES_WITH_NAMES ? "lanes many" : "lanes");
  const most = Math.max(1, ...(part.lanes ?? []).map((lane) => lane.lag ?? 0));
  reconcile(
    lanes,
    part.lanes ?? [],
    (lane) => lane.partition,
    () =>
      el(
        "div",
        { class: "lane" },
        el("span"),
        el("span", { class: "track" }, el("div", { class: "fill" })),
        el("span"),
      ),
    (row, lane) => {
      setText(row.children[0], `P${lane.partition}`);
      setAttribute(row, "title", `partition ${lane.partition}: ${count(lane.lag)}`);
      row.querySelector(".fill").style.setProperty("--part", `${(100 * (lane.lag ?? 0)) / most}%`);
      setText(row.children[2], count(lane.lag));
    },
  );
}

function makeEnd() {
  return el(
    "div",
    {},
    el("div", { class: "label" }, el("span", { class: "dot" }), el("span", { class: "name" })),
    el("div", { class: "row" }, el("span", { class: "value" }), el("span", { class: "note" })),
  );
}

function updateEnd(node, end) {
  setAttribute(node, "class", `stage tone-${end.tone}`);
  setText(node.querySelector(".name"), end.name);
  setText(node.querySelector(".value"), count(end.value));
  setText(node.querySelector(".note"), end.note);
}
