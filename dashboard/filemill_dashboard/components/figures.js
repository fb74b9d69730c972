// A few figures side by side. Unknown is a dash.
export default function ({ data, parentElement }) {
  const state = instance(parentElement, (root) => {
    const list = el("dl", { class: "figures" });
    root.append(list);
    return { list };
  });
  setAttribute(state.list, "class", data.old ? "figures old" : "figures");
  reconcile(
    state.list,
    data.numbers,
    (number) => number.name,
    () => el("div", {}, el("dt"), el("dd", { class: "value" }), el("dd", { class: "note" })),
    (node, number) => {
      setAttribute(node, "class", number.tone ? `figure tone-${number.tone} toned` : "figure");
      setAttribute(node, "title", number.title || null);
      setText(node.children[0], number.name);
      setText(node.children[1], number.value ?? UNKNOWN);
      setText(node.children[2], number.note);
    },
  );
}
