// The page's state is its address: run, view, search, filters, order, page. Everything else follows from it.
import { card, element, words } from "./cards.js";
import { Detail } from "./detail.js";
import { EmbeddingMap } from "./map.js";

const SIZE = 60, WAIT = 120; // rows of a page; ms until typing becomes a search
const at = (id) => document.getElementById(id);
let state = new URLSearchParams(location.search), runs = [], views = [], rows = [], total = 0, turn = 0;

// Ask the server; raise its words for what is wrong.
async function ask(path, parameters = {}, more = new URLSearchParams()) {
  const all = new URLSearchParams(more);
  for (const [name, value] of Object.entries(parameters)) all.append(name, value);
  let answer;
  try {
    answer = await fetch(`${path}?${all}`);
  } catch {
    throw new Error("The server does not answer: has `lightgen browse` ended?");
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw new Error(body.error ?? `the server answers with ${answer.status}; its log says why`);
}

function say(text, kind = "done") {
  at("note").textContent = text;
  at("note").dataset.state = kind;
}

const view = () => views.find((each) => each.name === state.get("view")) ?? views[0];
const page = () => Number(state.get("page") ?? 0);

// The part of the state that chooses rows.
function chosen(names = ["search", "filter", "sort", "descending"]) {
  const some = new URLSearchParams();
  for (const [name, value] of state) if (names.includes(name)) some.append(name, value);
  return some;
}

// Change the state; what is null goes, and but for `page` itself the first page comes. `push`: a step of the way back.
function change(changes, push = false) {
  if (!("page" in changes)) state.delete("page");
  for (const [name, value] of Object.entries(changes)) {
    state.delete(name);
    for (const each of [value].flat()) if (each !== null && each !== "") state.append(name, each);
  }
  history[push ? "pushState" : "replaceState"](null, "", `?${state}`);
  return show();
}

async function start() {
  const found = await (await ask("api/runs")).json();
  runs = found.runs;
  at("store").textContent = found.store;
  at("run").replaceChildren(...runs.map((run) => new Option(run.title, run.id)));
  await showRun();
}

async function showRun() {
  const run = runs.find((each) => each.id === state.get("run")) ?? runs[0];
  if (!run) return say("Nothing is finished in this store.", "error");
  state.set("run", run.id);
  at("run").value = run.id;
  const done = run.stages.filter((each) => each.state === "done").length;
  at("summary").textContent = `${done} of ${run.stages.length} stages done`;
  at("states").replaceChildren(
    ...run.stages.map(({ stage, state, why }) => element("li", {}, element("b", { text: stage }), element("span", { class: state === "done" ? "good" : "bad", text: state }), ` ${why}`)),
  );
  at("report").hidden = !run.report;
  at("report").href = run.report;
  views = await (await ask("api/views", { run: run.id })).json();
  if (!state.has("view")) state.set("view", (views.find((each) => each.name === "images" && !each.lacks) ?? views[0]).name);
  await show();
}

function showTabs() {
  at("views").replaceChildren(
    ...views.map(({ name, title, lacks }) => {
      const tab = element("button", { type: "button", text: title, title: lacks, class: lacks ? "lacking" : "" });
      if (name === view().name) tab.setAttribute("aria-current", "page");
      tab.addEventListener("click", () => change({ view: name, search: null, filter: null, sort: null, descending: null }, true));
      return tab;
    }),
  );
}

async function show() {
  const mine = ++turn, current = view(), isMap = current.name === "map";
  showTabs();
  document.title = `${current.title} - LightGen`;
  if (document.activeElement !== at("search")) at("search").value = state.get("search") ?? "";
  for (const id of ["sort-field", "order", "size-field"]) at(id).hidden = isMap;
  at("map").hidden = !isMap || Boolean(current.lacks);
  at("cards").hidden = isMap;
  at("tools").hidden = Boolean(current.lacks);
  at("pager").hidden = true;
  delete at("cards").dataset.ready;
  if (current.lacks) {
    at("cards").replaceChildren();
    return say(`Not there yet: ${current.lacks}.`);
  }
  try {
    await (isMap ? showMap(mine) : showRows(mine, current));
  } catch (error) {
    if (mine === turn) at("cards").replaceChildren();
    if (mine === turn) say(error.message, "error");
  }
}

async function showRows(mine, current) {
  const of = { run: state.get("run"), view: current.name }, started = performance.now();
  const [facts, got] = (
    await Promise.all([ask("api/view", of), ask("api/rows", { ...of, page: page(), size: SIZE }, chosen())])
  ).map((answer) => answer.json());
  const { facets, sorts, rows: all } = await facts, found = await got;
  if (mine !== turn) return;
  [rows, total] = [found.rows, found.total];
  showTools(facets, sorts);
  const count = total === all ? `${all.toLocaleString()} rows` : `${total.toLocaleString()} of ${all.toLocaleString()} rows`;
  const took = `${Math.round(performance.now() - started)} ms`;
  say([total || all ? `${count}, ${took}` : "No rows.", ...current.without.map((why) => `without ${why}`)].join("; "));
  const most = Math.max(0, ...rows.map((row) => row.images.length));
  at("size-field").hidden = !most;
  at("cards").className = most > 1 ? "double" : most ? "" : "texts";
  at("cards").replaceChildren(...rows.map((row, number) => card(row, () => open(number))));
  showPager();
  at("cards").dataset.ready = state;
}

async function showMap(mine) {
  const facts = await (await ask("api/view", { run: state.get("run"), view: "images" })).json();
  showTools(facts.facets, []);
  say("Placing the points ...");
  const count = await map.show(state.get("run"), chosen(["search", "filter"]));
  if (mine !== turn) return;
  const some = state.has("search") || state.has("filter"), unit = count === 1 ? "point matches" : "points match";
  const how = "a click opens an image, or Enter the one in the middle; dragging or arrows move, the wheel or + and - enlarge";
  say(`${some ? `${count.toLocaleString()} ${unit}; ` : ""}${how}`);
  at("cards").dataset.ready = state;
}

function showTools(facets, sorts) {
  const filters = state.getAll("filter");
  at("facets").replaceChildren(
    ...Object.entries(facets).map(([name, values]) => {
      const set = filters.find((each) => each.startsWith(`${name}:`)), select = element("select", { class: set ? "set" : "" });
      select.setAttribute("aria-label", words(name));
      select.append(new Option(`any ${words(name)}`, ""));
      select.append(...values.map(([value, count]) => new Option(`${words(value || "none").slice(0, 60)} (${count.toLocaleString()})`, `${name}:${value}`)));
      select.value = set ?? "";
      select.addEventListener("change", () => change({ filter: [...filters.filter((each) => each !== set), select.value] }));
      return select;
    }),
  );
  at("sort").replaceChildren(new Option("as stored", ""), ...sorts.map((name) => new Option(words(name), name)));
  at("sort").value = state.get("sort") ?? "";
  const descending = state.has("descending");
  at("order").textContent = descending ? "\u2193" : "\u2191";
  at("order").setAttribute("aria-pressed", descending);
  at("clear").disabled = ![...chosen()].length;
}

function showPager() {
  const pages = Math.max(1, Math.ceil(total / SIZE));
  at("pager").hidden = pages === 1 && page() === 0;
  at("previous").disabled = page() === 0;
  at("next").disabled = page() >= pages - 1;
  at("range").textContent = rows.length ? `${(page() * SIZE + 1).toLocaleString()} to ${(page() * SIZE + rows.length).toLocaleString()} of ${total.toLocaleString()}` : "";
  at("page").value = page() + 1;
  at("page").max = pages;
  at("pages").textContent = `of ${pages.toLocaleString()}`;
}

async function turnTo(number) {
  const last = Math.max(0, Math.ceil(total / SIZE) - 1), target = Math.min(last, Math.max(0, number));
  if (target === page()) return false;
  await change({ page: target ? String(target) : null }, true);
  scrollTo({ top: 0 });
  return true;
}

const where = (number) => `${(page() * SIZE + number + 1).toLocaleString()} of ${total.toLocaleString()}`;
let opened = 0;

function open(number) {
  opened = number;
  detail.open(rows[number], where(number));
}

async function step(by) {
  let next = opened + by;
  if (!rows[next]) {
    if (!(await turnTo(page() + by))) return null;
    next = by > 0 ? 0 : rows.length - 1;
  }
  opened = next;
  return { row: rows[next], where: where(next) };
}

async function whole(number) {
  const name = view().name === "map" ? "images" : view().name;
  return ask("api/row", { run: state.get("run"), view: name, row: number }).then((answer) => answer.json()).catch((error) => say(error.message, "error"));
}

const detail = new Detail(whole, step);
const map = new EmbeddingMap(ask, async (number) => {
  const row = await whole(number);
  if (row) detail.open(row, "", false);
}, whole);

let typed = 0;
at("search").addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(() => change({ search: at("search").value.trim() }), WAIT);
});
at("tools").addEventListener("submit", (event) => event.preventDefault());
at("sort").addEventListener("change", () => change({ sort: at("sort").value }));
at("order").addEventListener("click", () => change({ descending: state.has("descending") ? null : "true" }));
at("clear").addEventListener("click", () => {
  at("search").value = "";
  change({ search: null, filter: null, sort: null, descending: null });
});
at("run").addEventListener("change", () => {
  state = new URLSearchParams({ run: at("run").value, view: view().name });
  history.pushState(null, "", `?${state}`);
  showRun().catch((error) => say(error.message, "error"));
});
at("previous").addEventListener("click", () => turnTo(page() - 1));
at("next").addEventListener("click", () => turnTo(page() + 1));
at("page").addEventListener("change", () => turnTo(Math.round(at("page").value) - 1));
at("size").addEventListener("input", () => {
  document.documentElement.style.setProperty("--side", `${at("size").value}px`);
  localStorage.setItem("side", at("size").value);
});
at("size").value = localStorage.getItem("side") ?? Number.parseInt(getComputedStyle(document.documentElement).getPropertyValue("--side"));
if (localStorage.getItem("side")) document.documentElement.style.setProperty("--side", `${at("size").value}px`);
addEventListener("popstate", () => {
  state = new URLSearchParams(location.search);
  showRun().catch((error) => say(error.message, "error"));
});
addEventListener("keydown", (event) => {
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(document.activeElement.tagName);
  if (event.key === "Escape" && typing) document.activeElement.blur();
  if (typing || at("detail").open || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") event.preventDefault(), at("search").focus();
  if (event.key === "ArrowLeft") turnTo(page() - 1);
  if (event.key === "ArrowRight") turnTo(page() + 1);
  if (/^[1-9]$/.test(event.key)) at("views").children[event.key - 1]?.click();
});
start().catch((error) => say(error.message, "error"));
