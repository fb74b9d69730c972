// What happened, one below the other; a failure's trace unfolds.
export default function ({ data, parentElement }) {
  const state = instance(parentElement, (root) => {
    const title = el("h3", { class: "title" });
    const list = el("ol", { class: "steps" });
    const empty = el("div", { class: "none" });
    root.append(title, list, empty);
    return { title, list, empty };
  });
  setText(state.title, data.title);
  state.title.hidden = !data.title;
  setText(state.empty, data.empty);
  state.empty.hidden = data.steps.length > 0;
  setAttribute(state.list, "class", data.old ? "steps old" : "steps");
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
          el("div", { class: "what" }),
          el("div", { class: "detail", dir: "auto" }),
          el("details", {}, el("summary", {}, "Trace"), el("pre")),
        ),
        el("div", { class: "when" }, el("div", { class: "at" }), el("div", { class: "since" })),
      ),
    (node, step) => {
      setAttribute(node, "class", `tone-${step.tone}`);
      const [, body, when] = node.children;
      const [what, detail, trace] = body.children;
      setText(what, step.what);
      setText(detail, step.detail);
      detail.hidden = !step.detail;
      trace.hidden = !step.trace;
      setText(trace.lastChild, step.trace);
      setText(when.firstChild, clock(step.at));
      setText(when.lastChild, step.since === null ? "" : `+ ${duration(step.since)}`);
    },
  );
}
