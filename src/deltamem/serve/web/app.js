/** The page: what is shown, and what the buttons do. */

import { api, getKey, setKey } from "./api.js";
import { Heatmap, element, shown } from "./heatmap.js";
import { cutItem, pairItem, pendingItem, readTokens, shade, turnItem } from "./transcript.js";
import { forget, load, save, sentWith, turnsOf, turnsTo } from "./turns.js";

/** @param {string} id @returns {any} */
const $ = (id) => document.getElementById(id);

const state = {
  /** @type {import("./api.js").About} */ about: null,
  /** @type {import("./api.js").Session[]} */ sessions: [],
  /** @type {?string} */ after: null,
  /** @type {?import("./api.js").Session} */ session: null,
  /** @type {import("./api.js").Version[]} */ timeline: [],
  /** @type {import("./turns.js").Turn[]} */ turns: [],
  /** @type {?number} the version whose memory is shown */ version: null,
  /** @type {{after: number, item: HTMLElement}[]} comparisons, each after so many turns */ pairs: [],
  /** @type {?AbortController} of the answer that is being given */ running: null,
  /** @type {Map<string, import("./api.js").Strengths[]>} */ strengths: new Map(),
};

const sayValue = (text) => ($("value").textContent = text);
const held = new Heatmap($("held"), "Memory", sayValue);
const change = new Heatmap($("change"), "Change", sayValue);

// ---- errors and questions

/** @param {Error} error */
function fail(error) {
  $("error").querySelector("p").textContent = error.message;
  $("error").hidden = false;
  if (error.status === 401) askKey();
}

/** Runs an action; what goes wrong is shown in words. @param {() => Promise<void>} action */
async function attempt(action) {
  $("error").hidden = true;
  try {
    await action();
  } catch (error) {
    if (error.name !== "AbortError") fail(error);
  }
}

/**
 * @param {{title: string, text?: string, label?: string, value?: string, yes: string, secret?: boolean}} question
 * @returns {Promise<?string>} what was typed; null if nothing is to be done
 */
function ask({ title, text = "", label = "", value = "", yes, secret = false }) {
  const dialog = $("ask");
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  $("ask-label").hidden = !label;
  $("ask-label").firstElementChild.textContent = label;
  Object.assign($("ask-input"), { value, type: secret ? "password" : "text", maxLength: 200 });
  $("ask-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  $(label ? "ask-input" : "ask-no").focus();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes" ? $("ask-input").value : null), {
      once: true,
    }),
  );
}

async function askKey() {
  if ($("ask").open) return;
  const text = "This server needs a key: deltamem keys create. It is kept in this tab until it is closed.";
  const key = await ask({ title: "API key", text, label: "Key", value: getKey(), yes: "Use it", secret: true });
  if (key === null) return;
  setKey(key.trim());
  await attempt(begin);
}

// ---- the sessions at the side

/** @param {import("./api.js").Session} session */
const nameOf = (session) => session.label ?? session.id;

async function list() {
  const page = await api.list($("search").value.trim());
  state.sessions = page.data;
  state.after = page.after;
  drawSessions();
}

function drawSessions() {
  $("sessions").replaceChildren(
    ...state.sessions.map((session) => {
      const item = element("li");
      const link = element("a", { href: `#${session.id}` });
      link.append(element("span", { className: "name" }, nameOf(session)));
      const details = [`${session.tokens_written} tokens`, session.frozen && "frozen", session.forked_from && "fork"];
      link.append(element("span", { className: "meta" }, details.filter(Boolean).join(" · ")));
      if (session.id === state.session?.id) link.setAttribute("aria-current", "page");
      item.append(link);
      return item;
    }),
  );
  $("more").hidden = !state.after;
}

async function create() {
  const when = new Date().toLocaleString([], { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
  // The label names no word of the conversation: servers may keep labels and no text.
  const session = await api.create(when);
  save(session.id, []);
  await go(session.id);
}

/** @param {string} id */
async function go(id) {
  history.replaceState(null, "", id ? `#${id}` : location.pathname);
  await open(id);
}

/** @param {string} id empty for none */
async function open(id) {
  state.running?.abort();
  state.session = null;
  state.pairs = [];
  if (id) {
    try {
      state.session = await api.get(id);
    } catch (error) {
      if (error.status !== 404) throw error;
      history.replaceState(null, "", location.pathname);
      fail(error);
    }
  }
  await refresh();
  $("log").scrollTop = $("log").scrollHeight;
  await list();
  toMessage();
}

/** Reads the session again after something changed. */
async function refresh() {
  const { session, about } = state;
  state.timeline = session ? (await api.timeline(session.id)).data : [];
  state.turns = session ? await turnsOf(session.id, state.timeline, about.keeps_messages) : [];
  state.version = state.timeline[0]?.version ?? null;
  draw();
  await drawMemory();
  await drawShades();
}

/** The session's own record, and then all of it. */
async function reread() {
  state.session = await api.get(state.session.id);
  await refresh();
  await list();
}

// ---- the conversation

function draw() {
  const { session, turns } = state;
  $("title").textContent = session ? nameOf(session) : "New session";
  document.title = `${$("title").textContent} – deltamem`;
  for (const button of $("tools").children) button.disabled = !session;
  $("freeze").setAttribute("aria-pressed", String(session?.frozen ?? false));
  drawLog();
  drawTimeline();
  const seen = turns.filter((turn) => turn.visible).length;
  $("drop").disabled = !seen;
  const context = seen ? `The model sees the last ${seen === 1 ? "turn" : `${seen} turns`}.` : "Answers come from memory alone.";
  $("seen").textContent = session?.frozen ? `${context} Frozen: nothing is written.` : context;
  drawSuggestions();
}

function drawLog() {
  const [items, pairs] = [[], [...state.pairs]];
  let gone = false;
  state.turns.forEach((turn, i) => {
    if (gone && turn.visible) items.push(cutItem());
    gone = !turn.visible;
    items.push(turnItem(turn, turn.version === state.version, () => attempt(() => look(turn.version))));
    while (pairs[0]?.after === i + 1) items.push(pairs.shift().item);
  });
  if (gone) items.push(cutItem());
  items.push(...pairs.map((pair) => pair.item));
  if (!items.length) items.push(element("li", { className: "none" }, emptiness()));
  keepingPlace(() => $("log").replaceChildren(...items));
}

/** Whoever reads the end of the log goes on reading its end. @param {() => void} change */
function keepingPlace(change) {
  const log = $("log");
  const place = log.scrollTop;
  const end = log.scrollHeight - log.clientHeight - place < 60;
  change();
  log.scrollTop = end ? log.scrollHeight : place;
}

/** To the message box, unless that would bring up a keyboard on the screen. */
const toMessage = () => matchMedia("(pointer: fine)").matches && $("message").focus();

function emptiness() {
  if (!state.session?.tokens_written) return "Tell the model something, drop the context, and ask: what it then knows is in the matrices.";
  return "This server keeps no text, so what was said is gone. The memory of it is there: ask.";
}

function drawSuggestions() {
  const said = new Set(state.turns.flatMap((turn) => turn.messages.map((message) => message.content)));
  const group = (title, texts) => {
    const box = element("div", { role: "group", className: "chips" });
    box.setAttribute("aria-label", title);
    box.append(element("span", {}, title));
    box.append(...texts.map((text) => element("button", { type: "button", onclick: () => send(text) }, text)));
    return texts.length ? [box] : [];
  };
  const { suggestions } = state.about;
  const tell = suggestions.filter(([text]) => !said.has(text)).slice(0, 3).map(([text]) => text);
  const ask = suggestions.filter(([text]) => said.has(text)).map(([, question]) => question);
  $("suggestions").replaceChildren(...group("Tell it", tell), ...group("Ask it", [...new Set(ask)]));
  $("suggestions").hidden = !$("suggestions").childElementCount;
}

/** @param {boolean} busy */
function setBusy(busy) {
  $("log").setAttribute("aria-busy", String(busy));
  $("send").textContent = busy ? "Stop" : "Send";
  for (const id of ["compare", "drop"]) $(id).disabled = busy;
  for (const button of $("suggestions").querySelectorAll("button")) button.disabled = busy;
}

/** @param {HTMLElement} item */
function append(item) {
  $("log").querySelector(".none")?.remove();
  $("log").append(item);
  item.scrollIntoView({ block: "end" });
}

/**
 * Runs one exchange with the server at a time; the text comes back to its box if it fails.
 * @param {string} text @param {HTMLElement} item @param {(signal: AbortSignal) => Promise<void>} exchange
 * @param {() => void} [done] called when it did not fail
 */
async function exchanging(text, item, exchange, done) {
  state.running = new AbortController();
  const { signal } = state.running;
  append(item);
  setBusy(true);
  await attempt(async () => {
    try {
      await exchange(signal);
      done?.();
    } catch (error) {
      item.remove();
      if (!$("message").value) $("message").value = text;
      throw error;
    }
  });
  state.running = null;
  setBusy(false);
  draw();
  await attempt(drawShades);
}

/** @param {string} text */
async function send(text) {
  if (state.running || !text.trim()) return;
  if (!state.session) await attempt(create);
  if (!state.session) return;
  const { session, turns } = state;
  const question = { role: "user", content: text.trim() };
  const visible = turns.filter((turn) => turn.visible);
  const messages = [...visible.flatMap((turn) => turn.messages), question];
  const { item, push, text: answer } = pendingItem(question.content);
  $("message").value = "";
  toMessage();
  await exchanging(text, item, async (signal) => {
    const mode = session.frozen ? "read_only" : "read_write";
    const memory = await api.chat(session.id, mode, messages, push, signal);
    const turn = {
      version: memory.version ?? session.version,
      home: memory.version ? { session: session.id, version: memory.version } : null,
      messages: [question, { role: "assistant", content: answer() }],
      seen: visible.length,
      visible: true,
      written: Boolean(memory.version),
      note: noteOf(memory),
    };
    save(session.id, [...load(session.id), turn]);
    if (state.session?.id !== session.id) return;
    await reread();
  });
}

/** What became of a turn, in words. @param {any} memory */
function noteOf(memory) {
  if (!memory.version) return "Nothing was written.";
  const dropped = memory.dropped_messages ? ` · ${memory.dropped_messages} older messages did not fit` : "";
  return `${memory.written_tokens} tokens written · changed by ${shown(memory.change)}${dropped}`;
}

async function compare() {
  const text = $("message").value.trim();
  if (state.running || !text || !state.session) {
    if (!state.running) fail(new Error(state.session ? "Type a question to compare." : "There is no memory yet: tell it something first."));
    return;
  }
  const { item, push } = pairItem(text);
  const visible = state.turns.filter((turn) => turn.visible).flatMap((turn) => turn.messages);
  const messages = [...visible, { role: "user", content: text }];
  const id = state.session.id;
  $("message").value = "";
  await exchanging(text, item, async (signal) => {
    const modes = ["read_only", "off"];
    await Promise.all(modes.map((mode, i) => api.chat(id, mode, messages, push[i], signal)));
  }, () => state.pairs.push({ after: state.turns.length, item }));
}

function drop() {
  const unseen = (turns) => turns.map((turn) => ({ ...turn, visible: false }));
  state.turns = unseen(state.turns);
  save(state.session.id, unseen(load(state.session.id)));
  draw();
  attempt(drawShades);
  toMessage();
}

// ---- shading

const shading = () => document.querySelector("input[name=shade]:checked").value;

async function drawShades() {
  const by = shading();
  keepingPlace(() => ($("token").hidden = by === "none"));
  if (by === "none") return;
  const { session, turns } = state;
  const found = await Promise.all(turns.map((_, i) => strengthsOf(turns, i)));
  if (state.turns !== turns || state.session !== session || shading() !== by) return;
  const values = found.flatMap((messages) => (messages ?? []).flatMap((message) => message.tokens.map((token) => token[by] ?? 0)));
  const some = values.filter((value) => value > 0); // an empty memory gives nothing to read
  const [least, most] = some.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, 0]);
  const items = $("log").querySelectorAll(".turn:not(.pair, .pending)");
  found.forEach((messages, i) => messages && shade(items[i], messages, by, [least, most]));
  const what = by === "write" ? "how much a token changed the memory" : "how much a token read from memory";
  const words = most
    ? `Shaded: ${what}, from ${shown(least)} to ${shown(most)}. Point at a token, or focus a text and use the arrow keys.`
    : `Nothing was ${by === "write" ? "written" : "read"} here yet.`;
  keepingPlace(() => ($("token").textContent = words));
}

/** @param {import("./turns.js").Turn[]} turns @param {number} at @returns {Promise<?import("./api.js").Strengths[]>} */
async function strengthsOf(turns, at) {
  const { home, seen } = turns[at];
  if (!home) return null;
  const key = `${home.session}@${home.version}/${seen}`;
  if (!state.strengths.has(key)) {
    try {
      state.strengths.set(key, (await api.strengths(home.session, home.version, sentWith(turns, at))).data);
    } catch (error) {
      if (![400, 404].includes(error.status)) throw error;
      return null; // a version that is no longer kept
    }
  }
  return state.strengths.get(key);
}

// ---- the memory

/** @param {number} version */
async function look(version) {
  const list = document.activeElement?.closest("#timeline, #log");
  state.version = version;
  drawLog();
  drawTimeline();
  list?.querySelector("[aria-current]")?.focus();
  await drawMemory();
  await drawShades();
}

/** The difference of two nested arrays of numbers. @param {any} a @param {any} b @returns {any} */
const minus = (a, b) => (Array.isArray(a) ? a.map((part, i) => minus(part, b[i])) : a - b);

async function drawMemory() {
  const { session, version, about } = state;
  if (!session) {
    held.show(null, [], "The memory begins empty.");
    change.show(null, [], "Nothing changed yet.");
    $("facts").textContent = "Empty so far.";
    return;
  }
  const { parent } = state.timeline.find((point) => point.version === version);
  const now = await api.memory(session.id, version);
  const before = parent && (await api.memory(session.id, parent).catch(() => null));
  if (state.version !== version || state.session.id !== session.id) return;
  const changed = before && minus(now.states, before.states);
  held.show(now.states, about.layers);
  change.show(changed, about.layers, parent ? `Version ${parent} is no longer kept.` : "This is where it began.");
  $("held-title").textContent = `What v${version} holds`;
  $("change-title").textContent = parent ? `Changed since v${parent}` : "Change";
  const numbers = now.states.flat(3);
  const [layers, states, side] = [now.states.length, now.states[0].length, now.states[0][0].length];
  $("facts").textContent =
    `${layers} layers × ${states} states × ${side}×${side} = ${(numbers.length * 4) / 1024} KiB · ` +
    `${now.tokens_written} tokens written · norm ${shown(Math.hypot(...numbers))}`;
}

function drawTimeline() {
  const head = state.timeline[0]?.version;
  $("timeline").replaceChildren(
    ...state.timeline.map((point, i) => {
      const { version, kind, origin, created } = point;
      const item = element("li");
      const written = point.tokens_written - (state.timeline[i + 1]?.tokens_written ?? point.tokens_written);
      const what = kind === "rollback" ? `back to v${origin}` : kind === "fork" ? `fork of v${origin}` : kind;
      const button = element("button", { type: "button", className: "version", onclick: () => attempt(() => look(version)) });
      button.append(element("b", {}, `v${version}`), ` ${what}${written > 0 ? ` +${written}` : ""}`);
      if (version === state.version) button.setAttribute("aria-current", "true");
      const time = element("time", { dateTime: new Date(created * 1000).toISOString() });
      time.append(new Date(created * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
      item.append(button, time, ...(version === head ? [] : [actionOf("Roll back", version, rollback)]), actionOf("Fork", version, fork));
      return item;
    }),
  );
}

/** @param {string} name @param {number} version @param {(version: number) => Promise<void>} action */
function actionOf(name, version, action) {
  const button = element("button", { type: "button", className: "link", onclick: () => attempt(() => action(version)) }, name);
  button.setAttribute("aria-label", `${name}: version ${version}`);
  return button;
}

// ---- what can be done with a session

/** @param {number} version */
async function rollback(version) {
  await api.rollback(state.session.id, version);
  await reread();
  toMessage();
}

/** @param {number} version */
async function fork(version) {
  const { session, timeline } = state;
  const made = await api.fork(session.id, version, `Fork of ${nameOf(session)}`.slice(0, 200));
  save(made.id, turnsTo(session.id, timeline, version).map((turn) => ({ ...turn, version: made.version })));
  await go(made.id);
}

async function freeze() {
  state.session = { ...state.session, ...(await api.freeze(state.session.id, !state.session.frozen)) };
  draw();
  await drawShades();
  await list();
}

async function rename() {
  const label = await ask({ title: "Label this session", label: "Label", value: state.session.label ?? "", yes: "Save" });
  if (label === null) return;
  await api.label(state.session.id, label.trim() || null);
  await reread();
}

async function exportMemory() {
  const url = URL.createObjectURL(await api.export(state.session.id));
  element("a", { href: url, download: `${nameOf(state.session).replace(/[^\w.-]+/g, "-")}.safetensors` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

async function remove() {
  const text = `${nameOf(state.session)}, with all versions of its memory and all that was kept of its text. This cannot be undone.`;
  if ((await ask({ title: "Delete this session?", text, yes: "Delete" })) === null) return;
  await api.delete(state.session.id);
  forget(state.session.id);
  await go("");
}

// ---- wiring

/** @param {string} id @param {() => Promise<void> | void} action */
const on = (id, action) => $(id).addEventListener("click", () => attempt(async () => action()));

on("new", create);
on("rename", rename);
on("fork", () => fork(state.timeline[0].version));
on("freeze", freeze);
on("export", exportMemory);
on("delete", remove);
on("drop", drop);
on("key-open", askKey);
on("ask-no", () => $("ask").close("no"));
on("more", async () => {
  const page = await api.list($("search").value.trim(), state.after);
  state.sessions.push(...page.data);
  state.after = page.after;
  drawSessions();
});
$("compare").addEventListener("click", compare);
$("error").querySelector("button").addEventListener("click", () => ($("error").hidden = true));
$("search").addEventListener("input", () => attempt(list));
$("shade").addEventListener("change", () => attempt(async () => (drawLog(), drawShades())));
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (state.running) state.running.abort();
  else send($("message").value);
});
$("message").addEventListener("keydown", (event) => {
  if (event.key === "Escape") state.running?.abort();
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!state.running) send($("message").value);
});
readTokens($("log"), (token, value) => {
  const word = shading() === "write" ? "written with" : "read with";
  $("token").textContent = `“${token.trim()}” ${word} ${value}`;
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (held.paint(), change.paint()));
addEventListener("hashchange", () => attempt(() => open(location.hash.slice(1))));

async function begin() {
  state.about = await api.about();
  $("model").textContent = state.about.model;
  $("key-open").hidden = !state.about.needs_key;
  if (state.about.needs_key && !getKey()) return askKey();
  await open(location.hash.slice(1));
}

attempt(begin);
