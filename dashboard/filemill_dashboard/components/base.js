// Shared by all components. Everything from outside becomes a text node or an attribute value; nothing is parsed.

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// Touching only what changed keeps focus, selection and hover through a refresh.
function setText(node, text) {
  const wanted = text === null || text === undefined ? "" : String(text);
  if (node.textContent !== wanted) node.textContent = wanted;
}

// A sentence in which commands are between backticks.
function setSentence(node, text) {
  if (node.sentence === text) return;
  node.sentence = text;
  const parts = String(text ?? "").split("`");
  if (parts.length % 2 === 0)
    setText(node, text); // a backtick that stands alone
  else
    node.replaceChildren(
      ...parts.map((part, place) => (place % 2 ? el("code", {}, part) : part)).filter((part) => part !== ""),
    );
}

function setAttribute(node, name, value) {
  if (value === null || value === undefined) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

// Make `parent`'s children those of `items`, in order, reusing the node of each key.
function reconcile(parent, items, keyOf, create, update) {
  const known = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  items.forEach((item, place) => {
    const key = String(keyOf(item, place));
    let node = known.get(key);
    if (node) known.delete(key);
    else {
      node = create(item);
      node.dataset.key = key;
    }
    if (parent.children[place] !== node) parent.insertBefore(node, parent.children[place] ?? null);
    update(node, item);
  });
  for (const node of known.values()) node.remove();
}

// What lives as long as the component is mounted: made once, found again at each refresh.
function instance(parentElement, make) {
  const root = parentElement.querySelector(".root");
  root.state ??= make(root);
  return root.state;
}

// Ages grow between refreshes, by the viewer's clock's steps, not by its time of day.
function ticking(state, milliseconds, tick) {
  state.tick = tick;
  state.timer ??= setInterval(() => state.tick(), milliseconds);
  tick();
  return () => {
    clearInterval(state.timer);
    state.timer = null;
  };
}

const UNKNOWN = "–";
const numbers = new Intl.NumberFormat("en");

function count(value) {
  return value === null || value === undefined ? UNKNOWN : numbers.format(value);
}

function rate(value) {
  if (value === null || value === undefined) return UNKNOWN;
  return value >= 100 ? numbers.format(Math.round(value)) : value >= 10 ? value.toFixed(0) : value.toFixed(1);
}

// Fine below ten seconds, coarse above: nobody needs the minutes of a day.
function duration(seconds, fine = true) {
  if (seconds === null || seconds === undefined) return UNKNOWN;
  if (fine && seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${fine && seconds < 10 ? seconds.toFixed(1) : Math.floor(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

function ago(seconds) {
  if (seconds === null || seconds === undefined) return UNKNOWN;
  return seconds < 2 ? "just now" : `${duration(seconds, false)} ago`;
}

function bytes(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (value < 1024) return `${value} B`;
  return value < 1048576 ? `${(value / 1024).toFixed(1)} KiB` : `${(value / 1048576).toFixed(1)} MiB`;
}

// A moment (milliseconds since 1970) in the viewer's zone; with its day where that is not today.
function clock(milliseconds) {
  const moment = new Date(milliseconds);
  const pad = (value, digits = 2) => String(value).padStart(digits, "0");
  const time = `${pad(moment.getHours())}:${pad(moment.getMinutes())}:${pad(moment.getSeconds())}.${pad(moment.getMilliseconds(), 3)}`;
  const day = `${moment.getFullYear()}-${pad(moment.getMonth() + 1)}-${pad(moment.getDate())}`;
  return moment.toDateString() === new Date().toDateString() ? time : `${day} ${time}`;
}
