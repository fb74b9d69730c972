// A job: what it does, how far it is, and a button that stops it.
export default function ({ data, parentElement, setTriggerValue }) {
  const state = instance(parentElement, (root) => {
    const [name, said, fill, stop] = [
      el("span", { class: "name" }),
      el("span", { class: "said" }),
      el("div", { class: "fill" }),
      el("button", { type: "button" }),
    ];
    const bar = el("div", { class: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, fill);
    const job = el("div", { role: "status" }, el("span", { class: "dot" }), name, bar, said, stop);
    root.append(job);
    return { job, name, said, fill, bar, stop };
  });
  parentElement.host.closest(".stElementContainer").style.display = data.name ? "" : "none";
  if (!data.name) return;
  setAttribute(state.job, "class", `job tone-${data.tone}`);
  setText(state.name, data.name);
  setText(state.said, data.said);
  state.fill.style.width = `${100 * data.share}%`;
  setAttribute(state.bar, "aria-valuenow", Math.round(100 * data.share));
  setAttribute(state.bar, "aria-label", data.name);
  setText(state.stop, data.running ? "Stop" : "Hide");
  state.stop.onclick = () => setTriggerValue("stop", true);
}
