// The stages of the pipeline from left to right. An unknown value is a dash, never zero.
// Above this number of partitions, the bars stand side by side, with their labels below.
const LYING_BARS_MAX = 3;
// Above this number, their values are only in the tooltips.
const VALUES_MAX = 6;
// As many labels fit below the bars, and as many in a narrow window. Every nth bar is labelled.
const LABELS_MAX = 12;
const LABELS_NARROW_MAX = 6;

export default function ({ data, parentElement }) {
  const state = mountedState(parentElement, (root) => {
    const strip = el("div", { class: "strip" });
    root.append(strip);
    return { strip };
  });
  setAttribute(state.strip, "class", data.stale ? "strip stale" : "strip");
  const parts = data.stages.flatMap((stage, index) =>
    index ? [{ name: `arrow-${index}`, arrow: true }, stage] : [stage],
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
    el("div", { class: "partitions" }),
    el("div", { class: "note more" }),
  );
}

function updatePart(node, stage) {
  if (stage.arrow) return;
  if (stage.ends) {
    setAttribute(node, "class", stage.stale ? "ends stale" : "ends");
    reconcile(node, stage.ends, (end) => end.name, makeEnd, updateEnd);
    return;
  }
  setAttribute(
    node,
    "class",
    `stage${stage.partitions ? " wide" : ""}${stage.stale ? " stale" : ""}${stage.tone ? ` hot tone-${stage.tone}` : ""}`,
  );
  setAttribute(node, "title", stage.title);
  const [label, value, note, partitions, more] = node.children;
  setText(label, stage.name);
  setText(value, count(stage.value));
  setText(note, stage.note);
  setText(more, stage.more);
  more.hidden = !stage.partitions;
  partitions.hidden = !stage.partitions;
  const bars = (stage.partitions ?? []).length;
  const many = bars > LYING_BARS_MAX;
  setAttribute(partitions, "class", `partitions${many ? " many" : ""}${bars > VALUES_MAX ? " without-values" : ""}`);
  const largest = Math.max(1, ...(stage.partitions ?? []).map((partition) => partition.lag ?? 0));
  reconcile(
    partitions,
    stage.partitions ?? [],
    (partition) => partition.partition,
    () =>
      el(
        "div",
        { class: "partition" },
        el("span"),
        el("span", { class: "track" }, el("div", { class: "fill" })),
        el("span"),
      ),
    (bar, partition, index) => {
      const labels = [
        index % Math.ceil(bars / LABELS_MAX) ? " unlabelled" : "",
        index % Math.ceil(bars / LABELS_NARROW_MAX) ? " unlabelled-narrow" : "",
      ];
      setAttribute(bar, "class", `partition${many ? labels.join("") : ""}`);
      setText(bar.children[0], `P${partition.partition}`);
      setAttribute(bar, "title", `partition ${partition.partition}: ${count(partition.lag)}`);
      bar.querySelector(".fill").style.setProperty("--part", `${(100 * (partition.lag ?? 0)) / largest}%`);
      setText(bar.children[2], count(partition.lag));
    },
  );
}

function makeEnd() {
  return el(
    "div",
    {},
    el("div", { class: "label" }, el("span", { class: "dot" }), el("span", { class: "name" })),
    el(
      "div",
      { class: "row" },
      el("span", { class: "value" }),
      el("span", { class: "note" }, el("span", { class: "rate" }), el("span", { class: "window" })),
    ),
  );
}

function updateEnd(node, end) {
  setAttribute(node, "class", `stage tone-${end.tone}`);
  setText(node.querySelector(".name"), end.name);
  setText(node.querySelector(".value"), count(end.value));
  setText(node.querySelector(".rate"), end.note);
  setText(node.querySelector(".window"), end.window);
  setAttribute(node.querySelector(".note"), "title", `${end.note}${end.window}`);
}
