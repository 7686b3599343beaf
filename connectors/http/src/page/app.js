// The page at /: what anybody can build on the public API. Reads /v1/events, /v1/status and /v1/channels.
//
// Row values come from a database and may hold anything: they reach the page as text, never as markup.
"use strict";

const ROWS_MAX = 200; // more than a person reads, little for a browser
const HISTORY = 120; // seconds of the sparkline
const POLL_MS = 1000;
const SUMMARY_MAX = 300; // characters; the table cuts sooner, the whole event is a click away

const byId = (id) => document.getElementById(id);
const setText = (id, text) => { const node = byId(id); if (node.textContent !== text) node.textContent = text; };
const element = (name, text, className) => {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
};

// Figures as people read them

const whole = new Intl.NumberFormat("en");
const count = (number) => (number == null ? "–" : whole.format(number));

function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (bytes >= 1024 && at < units.length - 1) { bytes /= 1024; at += 1; }
  return `${bytes.toFixed(at > 0 && bytes < 10 ? 1 : 0)} ${units[at]}`;
}

function age(micros) {
  const seconds = Math.max(0, micros / 1e6);
  if (seconds < 2) return "just now";
  if (seconds < 120) return `${Math.floor(seconds)} s ago`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

function perSecond(rate) {
  return rate > 0 && rate < 10 ? rate.toFixed(1) : count(Math.round(rate));
}

// Status

const rates = [];
let previous = null;

async function pollStatus() {
  try {
    const response = await fetch("/v1/status", { cache: "no-store" });
    if (!response.ok) throw new Error(String(response.status));
    showStatus(await response.json(), performance.now());
  } catch {
    previous = null;
    showHealth("away", "Not reachable");
    showReasons(["Rowcast does not answer. This page tries again every second."]);
  }
  setTimeout(pollStatus, POLL_MS);
}

function showStatus(status, at) {
  showHealth(status.healthy ? "healthy" : "unhealthy", status.healthy ? "Changes flow" : "Something is wrong");
  showReasons(status.reasons);
  const { source, journal } = status;
  setText("version", `rowcast ${status.version}`);
  setText("source-address", source.address);
  state("source-state", source.state || "starting");
  setText("lag", size(source.lag_bytes));
  setText("last-commit", journal.newest_commit ? age(status.now - journal.newest_commit) : "none yet");
  setText("slot", source.slot || "–");
  setText("tables", count(Object.keys(source.tables).length));
  setText("journal-size", size(journal.bytes));
  setText("newest", String(journal.newest));
  setText("oldest", journal.oldest > journal.newest ? "–" : String(journal.oldest));
  setText("segments", count(journal.segments));
  state("journal-state", journal.state);
  showRate(journal, at);
  showDoors(status);
}

function state(id, name) {
  setText(id, name);
  byId(id).dataset.state = name;
}

function showHealth(name, text) {
  byId("health").dataset.state = name;
  setText("health", text);
}

function showReasons(reasons) {
  const list = byId("reasons");
  if (list.dataset.shown === JSON.stringify(reasons)) return; // read out once, not every second
  list.dataset.shown = JSON.stringify(reasons);
  list.replaceChildren(...reasons.map((reason) => element("li", reason)));
  list.hidden = reasons.length === 0;
}

// Numbers rise by one for each event, but for a jump when rowcast starts; then there is no previous answer.
function showRate(journal, at) {
  const sameStart = previous && previous.installation === journal.installation && journal.newest >= previous.newest;
  if (sameStart && at > previous.at) {
    rates.push(((journal.newest - previous.newest) * 1000) / (at - previous.at));
    rates.splice(0, rates.length - HISTORY);
    setText("rate", perSecond(rates[rates.length - 1]));
    drawSparkline();
  }
  previous = { at, newest: journal.newest, installation: journal.installation };
}

function drawSparkline() {
  const peak = Math.max(1, ...rates);
  const left = HISTORY - rates.length;
  const points = rates.map((rate, index) => `${left + index},${(31 - (rate / peak) * 29).toFixed(2)}`);
  byId("sparkline-line").setAttribute("points", points.join(" "));
  byId("sparkline-area").setAttribute("d", `M${left},32 L${points.join(" L")} L${HISTORY - 1},32 Z`);
  setText("rate-peak", `Peak ${perSecond(Math.max(...rates))} in the last two minutes`);
}

function showDoors(status) {
  const rows = Object.entries(status.doors).map(([name, door]) => {
    const row = element("tr");
    const stateCell = element("td");
    const word = element("span", door.state);
    word.dataset.state = door.state;
    stateCell.append(word);
    if (door.reason) stateCell.append(element("span", door.reason, "why"));
    row.append(element("td", name), stateCell, element("td", reach(door, status)), element("td", count(door.delivered)));
    return row;
  });
  byId("doors").tBodies[0].replaceChildren(...rows);
}

function reach(door, status) {
  if (door.clients != null) {
    const kinds = Object.entries(status.clients).filter(([, number]) => number > 0);
    const detail = kinds.map(([kind, number]) => `${number} ${kind}`).join(", ");
    return `${count(door.clients)} connected${detail && door.kind === "http" ? ` (${detail})` : ""}`;
  }
  return door.behind_since == null ? "caught up" : `behind since ${age(status.now - door.behind_since)}`;
}

// Live events

let stream = null;
let paused = false;
let waiting = []; // newest last, at most ROWS_MAX
let missed = 0; // while paused
let drawing = false;

function listen() {
  if (stream) stream.close();
  const channel = byId("channel").value.trim() || "*";
  const query = new URLSearchParams({ from: "last:50", numbers: "string" });
  channel.split(/[\s,]+/).filter(Boolean).forEach((name) => query.append("channel", name));
  byId("refused").hidden = true;
  setText("stream", "Connecting");
  const opened = new EventSource(`/v1/events?${query}`);
  stream = opened;
  opened.addEventListener("open", (event) => {
    if (event.data === undefined) return; // the browser's own event of the same name
    const { unknown } = JSON.parse(event.data);
    setText("stream", unknown.length > 0 ? `Not seen yet: ${unknown.join(", ")}` : "Live");
  });
  opened.addEventListener("gap", (event) => take({ op: "gap", ...JSON.parse(event.data) }));
  opened.onmessage = (event) => take(JSON.parse(event.data));
  opened.onerror = () => {
    setText("stream", "Reconnecting");
    if (opened.readyState === EventSource.CLOSED) refused(opened, query);
  };
}

// A stream of events cannot say why it was refused; the same question for a page can.
async function refused(closed, query) {
  const answer = await fetch(`/v1/events?${query}&limit=1`, { headers: { accept: "application/json" } }).catch(() => null);
  if (stream !== closed) return;
  if (answer && !answer.ok) {
    const { error } = await answer.json().catch(() => ({ error: { message: `Status ${answer.status}` } }));
    setText("refused", [error.message, error.hint].filter(Boolean).join(". "));
    byId("refused").hidden = false;
    setText("stream", "Refused");
    return;
  }
  setTimeout(() => { if (stream === closed) listen(); }, 2 * POLL_MS);
}

function take(event) {
  waiting.push(event);
  if (waiting.length > ROWS_MAX) waiting.shift();
  if (paused) {
    missed += 1;
    setText("pause", `Resume (${missed > 999 ? "999+" : missed} new)`);
  } else {
    draw();
  }
}

function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    if (paused) return;
    const body = byId("events").tBodies[0];
    const rows = waiting.map(eventRow).reverse();
    waiting = [];
    body.prepend(...rows);
    while (body.querySelectorAll("tr.event").length > ROWS_MAX) body.lastElementChild.remove();
    byId("empty").hidden = body.firstElementChild !== null;
  });
}

function eventRow(event) {
  const row = element("tr", undefined, "event new");
  row.dataset.op = event.op;
  if (event.id) row.dataset.id = event.id;
  row.dataset.channel = event.channel || "";
  const what = element("td");
  const open = element("button", summary(event));
  open.type = "button";
  open.setAttribute("aria-expanded", "false");
  what.append(open);
  const time = event.ts ? new Date(event.ts).toLocaleTimeString([], { hour12: false }) : "";
  const millis = event.ts ? event.ts.slice(19, 23) : "";
  const number = event.op === "gap" ? `${event.from}–${event.to}` : String(event.id);
  row.append(element("td", time + millis), element("td", event.op, "op"), channelCell(event), what, element("td", number, "number"));
  row.addEventListener("click", () => toggle(row, open, event));
  return row;
}

function channelCell(event) {
  const cell = element("td", event.channel || "all channels");
  cell.title = event.channel || "";
  return cell;
}

function toggle(row, open, event) {
  const shown = open.getAttribute("aria-expanded") === "true";
  open.setAttribute("aria-expanded", String(!shown));
  if (shown) {
    row.nextElementSibling.remove();
    return;
  }
  const whole = element("tr", undefined, "whole");
  whole.dataset.op = event.op;
  const cell = element("td");
  cell.colSpan = [...row.closest("table").tHead.rows[0].cells].filter((head) => head.offsetParent).length;
  cell.append(element("pre", JSON.stringify(event, null, 2)));
  whole.append(cell);
  row.after(whole);
}

function summary(event) {
  const text = {
    insert: () => pairs(event.after),
    read: () => pairs(event.after),
    update: () => difference(event),
    delete: () => pairs(event.before || event.key),
    truncate: () => "all rows are gone",
    message: () => JSON.stringify(event.payload),
    gap: () => [event.reason, event.detail].filter(Boolean).join(": "),
  }[event.op];
  return (text ? text() : JSON.stringify(event)).slice(0, SUMMARY_MAX);
}

function pairs(row) {
  return Object.entries(row || {}).map(([name, value]) => `${name}=${JSON.stringify(value)}`).join(" ");
}

function difference({ key, before, after, changed }) {
  if (!before || !changed || changed.length === 0) return pairs(after);
  const columns = changed.map((name) => `${name}: ${JSON.stringify(before[name])} → ${JSON.stringify(after[name])}`);
  return [pairs(key), ...columns].filter(Boolean).join("  ");
}

function clear() {
  waiting = [];
  byId("events").tBodies[0].replaceChildren();
  byId("empty").hidden = false;
}

async function offerChannels() {
  const response = await fetch("/v1/channels", { cache: "no-store" }).catch(() => null);
  if (!response || !response.ok) return;
  const { channels } = await response.json();
  const schemas = new Set(channels.filter(({ kind }) => kind === "table").map(({ channel }) => `${channel.split(".")[0]}.*`));
  const names = ["*", ...schemas, ...channels.map(({ channel }) => channel)];
  byId("channels").replaceChildren(...names.map((name) => { const option = element("option"); option.value = name; return option; }));
}

byId("filter").addEventListener("submit", (event) => event.preventDefault());
byId("channel").addEventListener("change", () => { clear(); listen(); });
byId("channel").addEventListener("focus", offerChannels);
byId("clear").addEventListener("click", clear);
byId("pause").addEventListener("click", () => {
  paused = !paused;
  missed = 0;
  byId("pause").setAttribute("aria-pressed", String(paused));
  setText("pause", paused ? "Resume" : "Pause");
  if (!paused) draw();
});

listen();
pollStatus();
