// Banners: what happened, and what to do.
export default function ({ data, parentElement, setTriggerValue }) {
  const state = mountedState(parentElement, (root) => {
    const list = el("div", { class: "notices", role: "status", "aria-live": "polite" });
    root.append(list);
    return { list };
  });
  // page.css removes the gap around an element of this style.
  parentElement.host.closest(".stElementContainer").style.display = data.notices.length || data.inline ? "" : "none";
  setAttribute(state.list, "class", data.inline ? "notices inline" : "notices");
  reconcile(
    state.list,
    data.notices,
    (notice) => notice.title,
    () => {
      const button = el("button", { class: "act", type: "button" });
      button.addEventListener("click", () => setTriggerValue("action", button.dataset.target));
      return el(
        "div",
        {},
        el("span", { class: "dot" }),
        el("div", { class: "title" }),
        el("div", { class: "text" }),
        button,
      );
    },
    (node, notice) => {
      setAttribute(node, "class", `notice tone-${notice.tone}`);
      setText(node.children[1], notice.title);
      setSentence(node.children[2], notice.text);
      node.children[2].hidden = !notice.text;
      const button = node.children[3];
      button.hidden = !notice.action;
      button.dataset.target = notice.target ?? "";
      setText(button, notice.action);
      setAttribute(node.children[2], "title", data.inline && notice.text ? notice.text : null);
    },
  );
}
