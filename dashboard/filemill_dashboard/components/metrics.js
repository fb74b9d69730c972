// Metrics side by side. An unknown value is a dash.
export default function ({ data, parentElement }) {
  const state = mountedState(parentElement, (root) => {
    const list = el("dl", { class: "metrics" });
    root.append(list);
    return { list };
  });
  setAttribute(state.list, "class", data.stale ? "metrics stale" : "metrics");
  reconcile(
    state.list,
    data.metrics,
    (metric) => metric.name,
    () => el("div", {}, el("dt"), el("dd", { class: "value" }), el("dd", { class: "note" })),
    (node, metric) => {
      setAttribute(node, "class", metric.tone ? `metric tone-${metric.tone} toned` : "metric");
      setAttribute(node, "title", metric.title || null);
      setText(node.children[0], metric.name);
      setText(node.children[1], metric.value ?? UNKNOWN);
      setText(node.children[2], metric.note);
    },
  );
}
