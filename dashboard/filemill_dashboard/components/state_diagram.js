// The states from left to right: those passed are filled in, the present one stands out, the others are faint.
export default function ({ data, parentElement }) {
  const state = instance(parentElement, (root) => {
    const way = el("div", { class: "way" });
    const loop = el("div", { class: "loop" }, el("span"));
    const machine = el("div", { class: "machine", role: "img" }, way, loop);
    root.append(machine);
    return { machine, way, loop };
  });
  setAttribute(state.machine, "class", data.old ? "machine old" : "machine");
  setAttribute(
    state.machine,
    "aria-label",
    [...data.way, ...data.ends]
      .filter((node) => node.reached)
      .map((node) => node.name)
      .join(", then "),
  );
  const end = data.ends.find((node) => node.reached);
  const parts = data.way.flatMap((node, place) =>
    place ? [{ name: `to ${node.name}`, after: node.after, reached: node.reached }, node] : [node],
  );
  parts.push(
    { name: "to the end", after: end?.after ?? null, reached: Boolean(end) },
    { name: "ends", ends: data.ends },
  );
  reconcile(
    state.way,
    parts,
    (part) => part.name,
    (part) =>
      part.ends
        ? el("div", { class: "ends" })
        : part.name.startsWith("to ")
          ? el("div", { class: "edge" }, el("span"), el("i"))
          : makeNode(),
    (node, part) => {
      if (part.ends) reconcile(node, part.ends, (one) => one.name, makeNode, updateNode);
      else if (part.name.startsWith("to ")) {
        setAttribute(node, "class", part.reached ? "edge reached" : "edge");
        setText(node.firstChild, part.after === null ? "" : duration(part.after));
      } else updateNode(node, part);
    },
  );
  setAttribute(state.loop, "class", data.ran ? "loop ran" : "loop");
  setText(state.loop.firstChild, data.again);
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
  setAttribute(node, "class", `node tone-${part.tone}${part.here ? " here" : part.reached ? " reached" : ""}`);
  const [name, at, note] = node.children;
  setText(name.lastChild, part.name);
  setText(at, part.at === null ? "" : clock(part.at));
  at.hidden = part.at === null;
  setText(note, part.note);
  note.hidden = !part.note;
}
