// Events, one below the other. The stack trace of a failure can be expanded.
export default function ({ data, parentElement }) {
  const state = mountedState(parentElement, (root) => {
    const title = el("h2", { class: "title" });
    const list = el("ol", { class: "steps" });
    const empty = el("div", { class: "empty" });
    root.append(title, list, empty);
    return { title, list, empty };
  });
  setText(state.title, data.title);
  state.title.hidden = !data.title;
  setText(state.empty, data.empty);
  state.empty.hidden = data.steps.length > 0;
  setAttribute(state.list, "class", data.stale ? "steps stale" : "steps");
  const dated = onSeveralDays(data.steps.map((step) => step.at));
  reconcile(
    state.list,
    data.steps,
    (step) => step.key,
    () =>
      el(
        "li",
        {},
        el("span", { class: "dot" }),
        el(
          "div",
          { class: "body" },
          el("div", { class: "event" }),
          el("div", { class: "detail", dir: "auto" }),
          el("details", {}, el("summary", {}, "Stack trace"), el("pre")),
        ),
        el("div", { class: "when" }, el("div", { class: "at" }), el("div", { class: "since-previous" })),
      ),
    (node, step) => {
      setAttribute(node, "class", `tone-${step.tone}`);
      const [, body, when] = node.children;
      const [event, detail, trace] = body.children;
      setText(event, step.title);
      setText(detail, step.detail);
      detail.hidden = !step.detail;
      trace.hidden = !step.trace;
      setText(trace.lastChild, step.trace);
      setText(when.firstChild, clock(step.at, dated));
      setText(when.lastChild, step.since_previous === null ? "" : `+ ${duration(step.since_previous)}`);
    },
  );
}
