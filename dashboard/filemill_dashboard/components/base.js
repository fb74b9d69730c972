// Shared by all components. All external text becomes a text node or an attribute value; none is parsed as markup.

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// Changing only what differs keeps focus, selection and hover through a refresh.
function setText(node, text) {
  const value = text === null || text === undefined ? "" : String(text);
  if (node.textContent !== value) node.textContent = value;
}

// Text in which commands are enclosed in backticks.
function setSentence(node, text) {
  if (node.sentence === text) return;
  node.sentence = text;
  const parts = String(text ?? "").split("`");
  if (parts.length % 2 === 0)
    setText(node, text); // an unmatched backtick
  else
    node.replaceChildren(
      ...parts.map((part, index) => (index % 2 ? el("code", {}, part) : part)).filter((part) => part !== ""),
    );
}

function setAttribute(node, name, value) {
  if (value === null || value === undefined) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

// A link to a download. With a reason why it is not possible now, it leads nowhere and says so.
function setDownload(link, href, refusal) {
  link.hidden = !href;
  setAttribute(link, "href", refusal ? null : href);
  setAttribute(link, "role", refusal ? "link" : null);
  setAttribute(link, "tabindex", refusal ? 0 : null);
  setAttribute(link, "aria-disabled", refusal ? "true" : null);
  setAttribute(link, "title", refusal || null);
}

// Make the children of `parent` match `items`, in order, and reuse the node of each key.
function reconcile(parent, items, keyOf, create, update) {
  const existing = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  items.forEach((item, index) => {
    const key = String(keyOf(item, index));
    let node = existing.get(key);
    if (node) existing.delete(key);
    else {
      node = create(item);
      node.dataset.key = key;
    }
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] ?? null);
    update(node, item, index);
  });
  for (const node of existing.values()) node.remove();
}

// The state of a mounted component: created once, returned at each refresh.
function mountedState(parentElement, create) {
  const root = parentElement.querySelector(".root");
  root.state ??= create(root);
  return root.state;
}

// When the dialog that a control opens has closed, the focus returns to the control, unless it is on another one.
const DIALOG_OPENS_MS = 10000;
const FOCUS_MOVES_MS = 300;

function returnFocusAfterDialog(findControl) {
  let opened = false;
  const observer = new MutationObserver(() => {
    const isOpen = document.querySelector('[role="dialog"]') !== null;
    opened ||= isOpen;
    if (isOpen || !opened) return;
    observer.disconnect();
    setTimeout(() => {
      if (!document.activeElement?.matches("a, button, input, select, textarea")) findControl()?.focus();
    }, FOCUS_MOVES_MS);
  });
  observer.observe(document.body, { childList: true, subtree: true });
  setTimeout(() => opened || observer.disconnect(), DIALOG_OPENS_MS);
}

// Ages grow between refreshes. They use elapsed time, not the viewer's time of day, which may be wrong.
function startTicking(state, milliseconds, tick) {
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

// Precise below ten seconds, coarse above.
function duration(seconds, precise = true) {
  if (seconds === null || seconds === undefined) return UNKNOWN;
  if (precise && seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${precise && seconds < 10 ? seconds.toFixed(1) : Math.floor(seconds)} s`;
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

// Whether the moments are not all of one day: then each is shown with its date.
function onSeveralDays(moments) {
  return new Set(moments.map((moment) => new Date(moment).toDateString())).size > 1;
}

// A moment (milliseconds since 1970) in the viewer's time zone, with its date unless that is today.
function clock(milliseconds, dated = false) {
  const moment = new Date(milliseconds);
  const pad = (value, digits = 2) => String(value).padStart(digits, "0");
  const time = `${pad(moment.getHours())}:${pad(moment.getMinutes())}:${pad(moment.getSeconds())}.${pad(moment.getMilliseconds(), 3)}`;
  const day = `${moment.getFullYear()}-${pad(moment.getMonth() + 1)}-${pad(moment.getDate())}`;
  return !dated && moment.toDateString() === new Date().toDateString() ? time : `${day} ${time}`;
}
