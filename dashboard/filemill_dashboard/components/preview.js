// External text, shown unchanged.
export default function ({ data, parentElement }) {
  const state = mountedState(parentElement, (root) => {
    const title = el("h2", { class: "title" });
    const note = el("span", { class: "note" });
    const text = el("pre", { class: "text", dir: "auto", tabindex: "0" });
    const message = el("div", { class: "message" });
    root.append(el("div", { class: "head" }, title, note), text, message);
    return { title, note, text, message };
  });
  setText(state.title, data.title);
  setText(state.note, data.note);
  setText(state.text, data.text);
  state.text.hidden = data.text === null;
  setText(state.message, data.message);
  state.message.hidden = data.text !== null;
}
