"use strict";
// One stream of events brings everything; what it says is shown as text and never as markup.

const $ = (id) => document.getElementById(id);
const HIDDEN = /[\u0000-\u0008\u000a-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb]/g;
// What could reorder or hide letters is shown as its number.
const clean = (text) => String(text).replace(HIDDEN, (c) => "\\u{" + c.codePointAt(0).toString(16) + "}");

function el(name, text, kind) {
  const node = document.createElement(name);
  if (text !== undefined && text !== null) node.textContent = clean(text);
  if (kind) node.className = kind;
  return node;
}
function set(node, text, kind) {
  const shown = clean(text);
  if (node.textContent !== shown) node.textContent = shown;
  if (kind !== undefined && node.className !== kind) node.className = kind;
}

const TONES = {
  running: "good", completed: "good", pending: "moving", starting: "moving", stopping: "moving",
  unhealthy: "bad", backoff: "bad", crashloop: "bad", failed: "bad", stopped: "dim", unknown: "unknown",
};
const BAD_EVENTS = new Set(["rejected", "start-failed", "unready", "stop-failed", "exited", "backoff", "crashloop",
  "failed", "not-durable", "rebuilt", "silent", "stalled"]);
const SIGNALS = { 1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 6: "SIGABRT", 7: "SIGBUS", 9: "SIGKILL", 11: "SIGSEGV", 13: "SIGPIPE", 15: "SIGTERM" };
const MOST_LINES = 2000;

let status = null;
let session = { control: false, token: null };
let chosen = null; // {namespace, pipeline, component, tab}; without a pipeline: all events
let source = null;
let retry = 0;
let lines = [];
let openLines = new Map();
let why = { events: [], lines: [] };
let graph = null;
let skew = 0; // what the daemon's host says it is, less what this one says
const rows = new Map();

const pipelineName = (p) => (p.namespace === "default" ? p.name : p.namespace + "/" + p.name);
const replicaName = (c, r) => (r.replica === 0 ? c.id : c.id + "-" + r.replica);
const keyOf = (p, c, r) => [p.namespace, p.name, c.id, r ? r.replica : ""].join("/");

function short(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return s + "s";
  if (s < 3600) return Math.floor(s / 60) + "m" + (s % 60) + "s";
  if (s < 86400) return Math.floor(s / 3600) + "h" + Math.floor(s / 60) % 60 + "m";
  return Math.floor(s / 86400) + "d" + Math.floor(s / 3600) % 24 + "h";
}
const age = (at) => short((Date.now() + skew - Date.parse(at)) / 1000);
function reason(r) {
  let next = "";
  if (r.next) {
    const left = r.next.at ? Math.ceil((Date.parse(r.next.at) - Date.now() - skew) / 1000) : null;
    next = left === null ? r.next.what : left > 0 ? r.next.what + " in " + short(left) : r.next.what + " now";
  }
  return [r.why, next].filter(Boolean).join("; ");
}
function ended(exit) {
  const how = exit.oom ? "out of memory" : exit.signal ? SIGNALS[exit.signal] || "signal " + exit.signal
    : exit.code !== null ? "exit " + exit.code : "exit unknown";
  return how + ", " + age(exit.at) + " ago";
}

// --- the table ---------------------------------------------------------------------------------

function draw() {
  if (!status) return;
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let ready = 0, meant = 0, failed = 0;
  const seen = new Set();
  const main = $("tables");
  for (const p of status.pipelines) {
    const section = sectionOf(p, seen);
    let count = 0;
    const body = section.querySelector("tbody");
    for (const c of p.components) {
      const all = c.replicas.length ? c.replicas : [null];
      for (const r of all) {
        if (r) {
          if (r.phase !== "completed" && r.phase !== "stopped") meant++;
          if (r.ready) ready++;
          if (r.phase === "failed") failed++;
        }
        const row = rowOf(p, c, r, body, seen);
        const text = [pipelineName(p), c.id, c.role, c.driver, r ? r.phase + " " + r.why : ""].join(" ").toLowerCase();
        const isShown = words.every((word) => text.includes(word));
        row.hidden = !isShown;
        if (isShown) count++;
      }
    }
    section.hidden = words.length > 0 && count === 0;
  }
  for (const [key, node] of rows) {
    if (!seen.has(key)) { node.remove(); rows.delete(key); }
  }
  $("empty").hidden = status.pipelines.length > 0;
  set($("empty"), "no pipelines; `flowctl apply -f FILE` adds one");
  const tally = [status.pipelines.length + (status.pipelines.length === 1 ? " pipeline" : " pipelines"),
    ready + " of " + meant + " ready"];
  if (failed) tally.push(failed + " failed");
  set($("tally"), tally.join(", "), failed ? "bad" : ready === meant ? "good" : "moving");
  document.title = (ready === meant && !failed ? "" : "(" + (meant - ready || failed) + ") ") + "flowctl";
  set($("daemon"), status.daemon ? "daemon " + status.daemon.version + ", pid " + status.daemon.pid : "");
  conditions();
  if (main.lastElementChild) ages();
}

function sectionOf(p, seen) {
  const key = "p:" + p.namespace + "/" + p.name;
  seen.add(key);
  let section = rows.get(key);
  if (!section) {
    section = el("section", null, "pipeline");
    const heading = el("div", null, "heading");
    const title = el("h2", pipelineName(p));
    const state = el("span"), origin = el("span", null, "dim"), problem = el("span", null, "bad");
    const logs = el("button", "logs"), draws = el("button", "graph");
    logs.addEventListener("click", () => choose({ namespace: p.namespace, pipeline: p.name, component: null, tab: "logs" }));
    draws.addEventListener("click", () => choose({ namespace: p.namespace, pipeline: p.name, component: null, tab: "graph" }));
    heading.append(title, state, origin, logs, draws, problem);
    const table = el("table"), head = el("thead"), titles = el("tr");
    for (const [title, kind] of [["component", ""], ["state", ""], ["ready", "wide"], ["restarts", "wide"], ["since", ""],
      ["driver", "wide"], ["why", ""]]) titles.append(el("th", title, kind));
    head.append(titles);
    table.append(head, el("tbody"));
    section.append(heading, table);
    section.parts = { state, origin, problem };
    rows.set(key, section);
    $("tables").append(section);
  }
  const { state, origin, problem } = section.parts;
  const [word, tone] = p.deleting ? ["being deleted", "moving"] : p.settled ? ["settled", "good"] : ["not settled", "moving"];
  set(state, word, tone);
  set(origin, "generation " + p.generation + "  " + (p.file || "from standard input"));
  set(problem, p.problem ? "its file has a problem: " + p.problem.message.split("\n")[0] : "");
  return section;
}

function rowOf(p, c, r, body, seen) {
  const key = keyOf(p, c, r);
  seen.add(key);
  let row = rows.get(key);
  if (!row) {
    row = el("tr");
    row.tabIndex = 0;
    for (const kind of ["name", "", "wide", "wide number", "since", "wide", "why"]) row.append(el("td", null, kind));
    const open = () => choose({ namespace: p.namespace, pipeline: p.name, component: c.id, tab: (chosen && chosen.component && chosen.tab) || "why" });
    row.addEventListener("click", open);
    row.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(); } });
    rows.set(key, row);
    body.append(row);
  } else if (row.parentNode !== body) body.append(row);
  row.told = r;
  const cells = row.children;
  set(cells[0], r ? replicaName(c, r) : c.id);
  set(cells[1], r ? r.phase : "-", r ? TONES[r.phase] || "" : "dim");
  set(cells[2], r ? (r.ready ? "yes" : "no") : "-");
  set(cells[3], r ? r.restarts : "-");
  set(cells[5], c.driver);
  if (!r) { set(cells[4], "-"); set(cells[6], c.desired + " replicas wanted"); }
  row.classList.toggle("chosen", isChosen(p, c));
  return row;
}
const isChosen = (p, c) => Boolean(chosen && chosen.component === c.id && chosen.pipeline === p.name && chosen.namespace === p.namespace);

function ages() {
  for (const row of rows.values()) {
    if (!row.told || row.hidden) continue;
    set(row.children[4], age(row.told.since));
    set(row.children[6], reason(row.told));
  }
  for (const node of $("content").querySelectorAll("dd")) if (node.told) set(node, node.told());
}

function conditions() {
  const all = status.conditions.concat(...status.pipelines.map((p) => p.conditions || []));
  const list = $("conditions");
  while (list.children.length > all.length) list.lastChild.remove();
  while (list.children.length < all.length) list.append(el("li"));
  all.forEach((one, at) => {
    const about = one.component ? (one.namespace === "default" ? "" : one.namespace + "/") + one.pipeline + "/" + one.component
      : one.pipeline || one.about || "daemon";
    const blocks = one.blocks && one.blocks.length ? "; holds up " + one.blocks.length : "";
    set(list.children[at], one.kind + "  " + about + (one.why ? ": " + one.why : "") + blocks,
      ["failed", "crashloop", "not-durable", "blind", "oom", "image-refused"].includes(one.kind) ? "bad" : "moving");
  });
}

// --- the detail --------------------------------------------------------------------------------

function choose(next) {
  chosen = next;
  lines = []; openLines = new Map(); why = { events: [], lines: [] }; graph = null;
  $("search").value = "";
  note("");
  location.hash = next ? [next.namespace, next.pipeline, next.component, next.tab].map((w) => encodeURIComponent(w || "")).join("/") : "";
  frame();
  draw();
  connect();
  if (next && next.tab === "why") load("why");
  if (next && next.tab === "graph") load("graph");
}

function frame() {
  $("detail").hidden = !chosen;
  if (!chosen) return;
  const { namespace, pipeline, component, tab } = chosen;
  set($("name"), !pipeline ? "all events" : (namespace === "default" ? "" : namespace + "/") + pipeline + (component ? "/" + component : ""));
  const tabs = $("tabs");
  tabs.replaceChildren();
  for (const name of !pipeline ? [] : component ? ["why", "logs", "events", "graph"] : ["logs", "events", "graph"]) {
    const button = el("button", name);
    button.type = "button";
    button.setAttribute("role", "tab");
    button.setAttribute("aria-selected", String(name === tab));
    button.addEventListener("click", () => choose({ ...chosen, tab: name }));
    tabs.append(button, " ");
  }
  $("tools").hidden = tab !== "logs" && tab !== "events";
  actions();
  const content = $("content");
  content.replaceChildren();
  if (tab === "logs" || tab === "events") {
    content.append(el("pre", null, $("wrap").checked ? "wrapped" : ""));
    content.firstChild.append(el("div", "being read", "dim"));
  } else content.append(el("p", "being read", "dim"));
}

function actions() {
  const box = $("actions");
  box.replaceChildren();
  box.hidden = !(session.control && session.token && chosen && chosen.component);
  if (box.hidden) return;
  const { namespace, pipeline, component } = chosen;
  for (const what of ["start", "stop", "restart"]) {
    const button = el("button", what);
    button.type = "button";
    button.addEventListener("click", () => {
      box.replaceChildren(el("span", what + " " + component + "?"));
      const yes = el("button", "yes, " + what), no = el("button", "no");
      yes.type = no.type = "button";
      yes.addEventListener("click", () => { actions(); steer(namespace, pipeline, component, what); });
      no.addEventListener("click", actions);
      box.append(yes, no);
      no.focus();
    });
    box.append(button);
  }
}

async function steer(namespace, pipeline, component, what) {
  const path = ["/api/steer", namespace, pipeline, component, what].map((w, at) => (at ? encodeURIComponent(w) : w)).join("/");
  try {
    const answer = await fetch(path, { method: "POST", headers: { "x-flowctl-token": session.token } });
    const told = await answer.json();
    if (answer.ok) note("the " + what + " is recorded" + (told.warnings || []).map((w) => "; warning: " + w).join(""), "good");
    else note("could not " + what + ": " + told.error.message + (told.error.hint ? "; " + told.error.hint : ""), "bad");
  } catch (error) { note("could not " + what + ": the server does not answer", "bad"); }
}

function note(text, tone) {
  $("note").hidden = !text;
  set($("note"), text, tone || "");
}

async function load(what) {
  const of = chosen;
  const path = ["/api", what, of.namespace, of.pipeline].concat(what === "why" ? [of.component] : [])
    .map((w, at) => (at ? encodeURIComponent(w) : w)).join("/");
  try {
    const answer = await fetch(path);
    const told = await answer.json();
    if (of !== chosen) return;
    if (!answer.ok) { note(told.error.message, "bad"); return; }
    if (what === "why") { why = told; drawWhy(); } else { graph = told; drawGraph(); }
  } catch (error) { if (of === chosen) note("the server does not answer", "bad"); }
}

function found() {
  const p = status && chosen && status.pipelines.find((one) => one.name === chosen.pipeline && one.namespace === chosen.namespace);
  return [p, p && p.components.find((one) => one.id === chosen.component)];
}

function drawWhy() {
  const [, c] = found();
  const content = $("content");
  content.replaceChildren();
  if (!c) { content.append(el("p", "there is no such component any more", "dim")); return; }
  for (const r of c.replicas) {
    content.append(el("h3", replicaName(c, r)));
    const list = el("dl");
    const add = (name, value, kind) => {
      const text = typeof value === "function" ? value() : value;
      if (text === null || text === undefined || text === "") return;
      const node = el("dd", text, kind);
      if (typeof value === "function") node.told = value;
      list.append(el("dt", name), node);
    };
    add("state", () => r.phase + " for " + age(r.since), TONES[r.phase]);
    add("why", () => reason(r));
    if (r.exit) add("last exit", () => ended(r.exit));
    if (r.restarts) add("restarts", r.restarts);
    add("pid", r.pid);
    if (r.image) add("image", r.image.name);
    for (const [name, address] of Object.entries(r.addresses || {})) add(name, address);
    if (r.registration) add("registered", "as " + r.registration.service_id);
    if (r.progress) add("progress", r.progress.watches + ": " + (r.progress.why || r.progress.value || "not seen yet"));
    content.append(list);
  }
  if (!c.replicas.length) content.append(el("p", c.desired + " replicas wanted"));
  for (const one of c.notes || []) content.append(el("p", one, "unknown"));
  if (why.lines.length) {
    content.append(el("h3", "last lines"));
    const pre = el("pre", null, "wrapped");
    for (const line of why.lines) pre.append(el("div", (c.replicas.length > 1 ? line.name + " | " : "") + line.text));
    content.append(pre);
  }
  if (why.events.length) {
    content.append(el("h3", "last events"));
    const pre = el("pre", null, "wrapped");
    for (const event of why.events) pre.append(eventLine(event));
    content.append(pre);
  }
}

function eventLine(event) {
  const about = [event.pipeline, event.component && (event.replica ? event.component + "-" + event.replica : event.component)].filter(Boolean).join("/");
  const line = el("div");
  line.append(el("span", event.at.slice(0, 19).replace("T", " ") + "  ", "dim"),
    el("span", event.kind.padEnd(13) + "  ", BAD_EVENTS.has(event.kind) ? "bad" : ""),
    el("span", (about || "daemon").padEnd(20) + "  " + event.message));
  return line;
}

function append(nodes) {
  const pre = $("content").querySelector("pre");
  if (!pre) return;
  if (pre.firstChild && !pre.ready) { pre.replaceChildren(); pre.ready = true; }
  const word = $("search").value.toLowerCase();
  for (const node of nodes) {
    node.hidden = word !== "" && !node.textContent.toLowerCase().includes(word);
    pre.append(node);
  }
  while (pre.children.length > MOST_LINES) pre.firstChild.remove();
  toEnd();
}
function toEnd() {
  if ($("follow").checked) $("content").scrollTop = $("content").scrollHeight;
}

function onLines(told) {
  const nodes = [];
  for (const line of told.lines) {
    const key = line.run + line.stream;
    const open = openLines.get(key);
    if (open && open.isConnected) { open.append(clean(line.text)); if (!line.partial) openLines.delete(key); continue; }
    const node = el("div");
    if (!chosen.component || line.name !== chosen.component) node.append(el("span", line.name + " | ", "dim"));
    node.append(el("span", line.text, line.stream === "stderr" ? "moving" : ""));
    if (line.partial) openLines.set(key, node.lastChild); else openLines.delete(key);
    nodes.push(node);
  }
  for (const trouble of told.troubles) nodes.push(el("div", trouble, "unknown"));
  if (told.left_out) nodes.push(el("div", "-- more is written than can be shown; lines are left out here --", "unknown"));
  append(nodes);
}

const SVG = "http://www.w3.org/2000/svg";
function svg(name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = clean(text);
  return node;
}

function drawGraph() {
  const content = $("content");
  if (!graph) return;
  const depth = new Map(graph.components.map((c) => [c.id, 0]));
  // As deep as the longest way to it; there are no circles in it.
  for (let round = 0; round < graph.components.length; round++) {
    let isSettled = true;
    for (const { from, to } of graph.edges) {
      if (depth.get(to) < depth.get(from) + 1 && depth.get(from) < graph.components.length) { depth.set(to, depth.get(from) + 1); isSettled = false; }
    }
    if (isSettled) break;
  }
  const columns = [];
  for (const c of graph.components) (columns[depth.get(c.id)] ||= []).push(c.id);
  const WIDE = 190, HIGH = 46, GAP_X = 60, GAP_Y = 18;
  const place = new Map();
  columns.forEach((ids, x) => ids.forEach((id, y) => place.set(id, [x * (WIDE + GAP_X) + 8, y * (HIGH + GAP_Y) + 8])));
  const width = columns.length * (WIDE + GAP_X) - GAP_X + 16;
  const height = Math.max(...columns.map((ids) => ids.length)) * (HIGH + GAP_Y) - GAP_Y + 16;
  const root = svg("svg", { width, height, viewBox: "0 0 " + width + " " + height, role: "img", "aria-label": "graph" });
  for (const { from, to, kind } of graph.edges) {
    const [fx, fy] = place.get(from), [tx, ty] = place.get(to);
    const x1 = fx + WIDE, y1 = fy + HIGH / 2, x2 = tx, y2 = ty + HIGH / 2, middle = (x1 + x2) / 2;
    const edge = svg("path", { d: `M${x1} ${y1} C${middle} ${y1} ${middle} ${y2} ${x2 - 6} ${y2}`, class: kind === "input" ? "" : "wait" });
    edge.append(svg("title", {}, from + " to " + to + ": " + kind));
    root.append(edge, svg("path", { d: `M${x2} ${y2} l-8 -4 v8 z`, class: "tip" }));
  }
  const [p] = found();
  for (const c of graph.components) {
    const [x, y] = place.get(c.id);
    const told = p && p.components.find((one) => one.id === c.id);
    const phases = told ? told.replicas.map((r) => r.phase) : [];
    const worst = phases.find((one) => TONES[one] === "bad") || phases.find((one) => TONES[one] !== "good") || phases[0];
    const group = svg("g", { tabindex: "0" });
    group.append(svg("rect", { x, y, width: WIDE, height: HIGH, rx: 5, class: TONES[worst] || "" }),
      svg("text", { x: x + 10, y: y + 19 }, c.id.length > 24 ? c.id.slice(0, 23) + "\u2026" : c.id),
      svg("text", { x: x + 10, y: y + 36, class: TONES[worst] || "dim" }, worst ? worst + (phases.length > 1 ? " (" + phases.length + ")" : "") : c.role),
      svg("title", {}, c.id));
    group.addEventListener("click", () => choose({ ...chosen, component: c.id, tab: "why" }));
    root.append(group);
  }
  content.replaceChildren(root);
}

// --- the stream --------------------------------------------------------------------------------

function connect() {
  clearTimeout(retry);
  if (source) source.close();
  source = null;
  // A page that nobody sees takes no connection from one that somebody does.
  if (document.hidden) return;
  const query = new URLSearchParams();
  if (chosen && (chosen.tab === "logs" || chosen.tab === "events")) {
    query.set("open", chosen.tab);
    for (const part of ["namespace", "pipeline", "component"]) if (chosen[part]) query.set(part, chosen[part]);
  }
  const mine = source = new EventSource("/api/stream?" + query);
  const on = (name, act) => mine.addEventListener(name, (event) => { if (mine === source) act(JSON.parse(event.data)); });
  on("link", link);
  on("status", (told) => {
    status = told;
    draw();
    if (chosen && chosen.tab === "why") { drawWhy(); reloadWhy(); }
    if (chosen && chosen.tab === "graph") drawGraph();
  });
  on("lines", onLines);
  on("events", (told) => append(told.map(eventLine)));
  on("over", (told) => note(told.why, "bad"));
  mine.addEventListener("open", () => { lines = []; const pre = $("content").querySelector("pre"); if (pre) pre.ready = false; });
  mine.addEventListener("error", () => {
    if (mine !== source) return;
    banner("the server of this page does not answer; below is what was so then");
    if (mine.readyState === EventSource.CLOSED) again();
  });
}

// Browsers do not try again where an answer was a refusal.
async function again() {
  try {
    const answer = await fetch("/api/session");
    if (answer.status === 401) { banner("this page is not let in any more; open the link that `flowctl web` prints"); return; }
  } catch (error) { /* It does not answer yet. */ }
  retry = setTimeout(connect, 3000);
}

let told = "";
function reloadWhy() {
  const [, c] = found();
  const now = JSON.stringify(c || null);
  if (now !== told && chosen.component) { told = now; load("why"); }
}

function banner(text) {
  $("banner").hidden = !text;
  set($("banner"), text);
}
let wasLost = false;
function link(now) {
  if (now.state === "answers") {
    banner("");
    // What was open over the daemon before has ended with it.
    if (wasLost) { wasLost = false; note(""); connect(); }
    return;
  }
  wasLost = now.state === "lost";
  if (now.state === "waiting") banner("no daemon answers; it is waited for");
  else banner("no daemon answers since " + now.since.slice(11, 19) + " UTC; below is what was so then. " + now.why);
}

document.addEventListener("visibilitychange", connect);
setInterval(() => { if (!document.hidden) ages(); }, 1000);
$("filter").addEventListener("input", draw);
$("close").addEventListener("click", () => choose(null));
$("all-events").addEventListener("click", () => choose({ namespace: null, pipeline: null, component: null, tab: "events" }));
$("wrap").addEventListener("change", () => { const pre = $("content").querySelector("pre"); if (pre) pre.className = $("wrap").checked ? "wrapped" : ""; });
$("follow").addEventListener("change", toEnd);
$("search").addEventListener("input", () => {
  const word = $("search").value.toLowerCase();
  for (const node of $("content").querySelectorAll("pre > div")) node.hidden = word !== "" && !node.textContent.toLowerCase().includes(word);
  toEnd();
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && chosen && event.target.tagName !== "INPUT") choose(null); });

(async () => {
  try { session = await (await fetch("/api/session")).json(); } catch (error) { /* The stream says so. */ }
  const parts = location.hash.slice(1).split("/").map((part) => { try { return decodeURIComponent(part) || null; } catch (error) { return null; } });
  const [namespace, pipeline, component, tab] = parts;
  const tabs = pipeline ? (component ? ["why", "logs", "events", "graph"] : ["logs", "events", "graph"]) : ["events"];
  if (tabs.includes(tab)) choose({ namespace, pipeline, component, tab });
  else connect();
})();
