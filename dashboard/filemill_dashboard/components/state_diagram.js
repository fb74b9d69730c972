// The states of a file from left to right. Reached states have a solid border, and the current state is highlighted.
export default function ({ data, parentElement }) {
  const state = mountedState(parentElement, (root) => {
    const path = el("div", { class: "path" });
    const loop = el("div", { class: "loop" }, el("span"));
    const diagram = el("div", { class: "diagram", role: "img" }, path, loop);
    root.append(diagram);
    return { diagram, path, loop };
  });
  setAttribute(state.diagram, "class", data.stale ? "diagram stale" : "diagram");
  setAttribute(
    state.diagram,
    "aria-label",
    [...data.path, ...data.ends]
      .filter((node) => node.reached)
      .map((node) => node.name)
      .join(", then "),
  );
  const end = data.ends.find((node) => node.reached);
  const parts = data.path.flatMap((node, index) =>
    index ? [{ name: `to ${node.name}`, isEdge: true, after: node.after, reached: node.reached }, node] : [node],
  );
  parts.push(
    { name: "to the end", isEdge: true, after: end?.after ?? null, reached: Boolean(end) },
    { name: "ends", ends: data.ends },
  );
  reconcile(
    state.path,
    parts,
    (part) => part.name,
    (part) =>
      part.ends
        ? el("div", { class: "ends" })
        : part.isEdge
          ? el("div", { class: "edge" }, el("span"), el("i"))
          : makeNode(),
    (node, part) => {
      if (part.ends) reconcile(node, part.ends, (node) => node.name, makeNode, updateNode);
      else if (part.isEdge) {
        setAttribute(node, "class", part.reached ? "edge reached" : "edge");
        setText(node.firstChild, part.after === null ? "" : duration(part.after));
      } else updateNode(node, part);
    },
  );
  setAttribute(state.loop, "class", data.retried ? "loop retried" : "loop");
  setText(state.loop.firstChild, data.retry_label);
}

function makeNode() {
  return el(
    "div",
    {},
    el("div", { class: "name" }, el("span", { class: "dot" }), el("span")),
    el("div", { class: "at" }),
    el("div", { class: "note" }),
  );
}

function updateNode(node, part) {
  setAttribute(node, "class", `node tone-${part.tone}${part.current ? " current" : part.reached ? " reached" : ""}`);
  const [name, at, note] = node.children;
  setText(name.lastChild, part.name);
  setText(at, part.at === null ? "" : clock(part.at));
  at.hidden = part.at === null;
  setText(note, part.note);
  note.hidden = !part.note;
}
