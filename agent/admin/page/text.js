// Numbers, times and names for people, and where in the document they come from.
//
// A place is a path of names, each escaped as in an address: "outputs/influx/ledger/delivered". In a list, a name
// is that of an element. "*" is all of a place, which are added up, and so are places joined by "+".

const NAME_CHARS_MAX = 128;
const group = new Intl.NumberFormat("en");

// ---- places ----

export const at = (...names) =>
  names.map((name) => (name === "*" ? name : encodeURIComponent(name).replaceAll("*", "%2A"))).join("/");

const nameOf = (element) => element.name ?? element.output ?? element.writer ?? element.agent ?? String(element.lane);

function inside(value, name) {
  if (value === null || typeof value !== "object") return [];
  if (name === "*") return Object.values(value);
  const wanted = decodeURIComponent(name);
  if (Array.isArray(value)) return value.filter((element) => nameOf(element) === wanted);
  return Object.hasOwn(value, wanted) ? [value[wanted]] : [];
}

const all = (root, place) =>
  place.split("+").flatMap((path) => path.split("/").reduce((found, name) => found.flatMap((one) => inside(one, name)), [root]));

// What is at a place: one value as it is, several numbers as their sum; undefined if nothing is there.
export function read(root, place) {
  const found = all(root, place).filter((value) => value !== null);
  if (!found.length) return /[*+]/.test(place) ? 0 : undefined;
  if (found.length === 1) return found[0];
  return found.reduce((sum, value) => sum + value, 0);
}

// ---- formats ----

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

function size(bytes) {
  let unit = 0;
  let number = bytes;
  for (; number >= 1024 && unit < UNITS.length - 1; unit += 1) number /= 1024;
  return `${unit && number < 100 ? number.toFixed(1) : group.format(Math.round(number))} ${UNITS[unit]}`;
}

// The two largest units: "3 d 4 h".
export function span(seconds) {
  let rest = Math.max(0, Math.floor(seconds));
  const parts = [];
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    if (rest >= length || (unit === "s" && !parts.length)) {
      parts.push(`${Math.floor(rest / length)} ${unit}`);
      rest %= length;
    }
  }
  return parts.slice(0, 2).join(" ");
}

// Short times: "0.35 ms", "94 ms", "1.2 s".
export function duration(seconds) {
  if (seconds < 0.001) return `${(seconds * 1e3).toFixed(2)} ms`;
  if (seconds < 1) return `${Math.round(seconds * 1e3)} ms`;
  return seconds < 100 ? `${seconds.toFixed(1)} s` : span(seconds);
}

export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");

const moment = (seconds) => new Date(seconds * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });

export const count = (number) => group.format(number);

export const rate = (number) => `${number >= 10 || number === 0 ? group.format(Math.round(number)) : number.toFixed(1)}/s`;

const listed = (reasons) =>
  Object.entries(reasons).filter(([, number]) => number).sort().map(([name, number]) => `${name} ${count(number)}`).join(", ");

const FORMATS = {
  count,
  rate,
  size,
  span,
  duration,
  clock,
  moment,
  loss: count,
  age: (ns, now) => (ns ? span(now - ns / 1e9) : "–"),
  since: (seconds, now) => span(now - seconds),
  percent: (share) => `${(share * 100).toFixed(1)} %`,
  times: (burn) => `${burn < 10 ? burn.toFixed(2) : group.format(Math.round(burn))}×`,
  ms: (ns) => `${group.format(Math.round(ns / 1e6))} ms`,
  reasons: listed,
  word: (text) => String(text).replaceAll("_", " ") || "–",
};

export function format(value, as, now) {
  if (value === undefined || value === null) return "–";
  return FORMATS[as](value, now);
}

// ---- elements ----

// An element with attributes, and with children: elements, or text, which stays text whatever it says.
export function h(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag || "div");
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

// What would turn the text around it, or is not seen.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

const escaped = (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;

// A name from outside: of any direction and any length.
export function label(text, name = "bdi") {
  const whole = String(text).replace(UNSEEN, escaped);
  const long = whole.length > NAME_CHARS_MAX;
  return h(name, { title: long ? whole : undefined }, long ? `${whole.slice(0, NAME_CHARS_MAX)}…` : whole);
}

// A figure of the document, which refresh() fills in.
export const figure = (place, as = "count", name = "span") => h(name, { "data-at": place, "data-as": as });

// How much came to a place a second since the document before it; 0 where there was none.
export function gain(root, before, place) {
  const now = read(root, place);
  if (!before || typeof now !== "number") return 0;
  return Math.max(0, now - (read(before, place) ?? 0)) / Math.max(0.5, root.time - before.time);
}

// ---- filling in ----

function fill(element, root, before) {
  const { at: place, as } = element.dataset;
  const value = read(root, place);
  let text;
  if (as === "gain") {
    const gained = gain(root, before, place);
    text = gained ? `+${rate(gained)}` : "";
  } else {
    text = format(value, as, root.time);
  }
  if (element.textContent !== text) element.textContent = text;
  if (as === "loss") element.classList.toggle("lost", value > 0);
  if (as === "word") element.dataset.word = value ?? "";
}

// Put the figures of *root* wherever they are shown below *element*; *before* is the document before it.
export function refresh(element, root, before) {
  for (const one of element.querySelectorAll("[data-at]")) fill(one, root, before);
  for (const one of element.querySelectorAll("[data-if]")) one.hidden = !read(root, one.dataset.if);
  for (const one of element.querySelectorAll("[data-level]")) {
    const [part, whole] = [read(root, one.dataset.level) ?? 0, read(root, one.dataset.of) ?? 0];
    one.style.setProperty("--level", `${(whole ? Math.min(1, part / whole) : 0) * 100}%`);
  }
  for (const one of element.querySelectorAll("[data-state-at]")) one.dataset.state = read(root, one.dataset.stateAt) ?? "";
}
