/** The page: what is open, what is sent, and what the buttons do. */

import { api, getKey } from "./api.js";
import { askKey, attempt, fail } from "./dialogs.js";
import { $ } from "./dom.js";
import { shown } from "./heatmap.js";
import { append, drawLog, drawSuggestions } from "./log.js";
import { drawMemory, drawTimeline, repaint } from "./memory.js";
import { askMemory, clearKnown } from "./recall.js";
import { create, exportMemory, fork, list, more, remove, rename } from "./sessions.js";
import { drawShades, shading, tellToken } from "./shades.js";
import { nameOf, state, visibleTurns } from "./state.js";
import { pairItem, pendingItem, readTokens } from "./transcript.js";
import { load, save, turnsOf } from "./turns.js";

const phone = matchMedia("(max-width: 40rem)");

/** On a narrow screen, where only one part is seen. @param {"side" | "chat" | "memory"} part */
const show = (part) => ($(`view-${part}`).checked = true);

/** To the message box, unless that would bring up a keyboard on the screen, or someone types elsewhere. */
const toMessage = () =>
  matchMedia("(pointer: fine)").matches && !document.activeElement.matches("input") && $("message").focus();

/**
 * Runs what someone asked for. Where the server refuses, others may have changed the session: the page reads it again.
 * @param {() => Promise<void> | void} action
 */
const act = (action) =>
  attempt(async () => {
    try {
      await action();
    } catch (error) {
      if (state.session && [404, 409].includes(error.status)) await reread();
      throw error;
    }
  });

// ---- what is open

/** @param {string} id empty for a new session */
async function go(id) {
  history.replaceState(null, "", id ? `#${id}` : location.pathname);
  await open(id);
}

/** @param {string} id empty for a new session */
async function open(id) {
  if (!state.about) return begin();
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
  show("chat");
  await refresh();
  $("log").scrollTop = $("log").scrollHeight;
  await list();
  toMessage();
}

/** Reads the session's versions and turns after something changed. */
async function refresh() {
  const { session, about } = state;
  state.timeline = session ? (await api.timeline(session.id)).data : [];
  state.turns = session ? await turnsOf(session.id, state.timeline, about.keeps_messages) : [];
  state.version = state.timeline[0]?.version ?? null;
  draw();
  clearKnown();
  await drawMemory();
  await drawShades();
}

/** The session's own record, and then all of it; a new one if it was deleted elsewhere. */
async function reread() {
  try {
    state.session = await api.get(state.session.id);
  } catch (error) {
    if (error.status !== 404) throw error;
    return go("");
  }
  await refresh();
  await list();
}

/** @param {number} version */
async function look(version) {
  const list = document.activeElement?.closest("#timeline, #log");
  state.version = version;
  draw();
  list?.querySelector("[aria-current]")?.focus();
  if (phone.matches) show("memory");
  await drawMemory();
  await drawShades();
}

// ---- drawing

const looking = (version) => act(() => look(version));
const versionActions = {
  look: looking,
  rollback: (version) => act(() => rollback(version)),
  fork: (version) => act(async () => go(await fork(version))),
};

function draw() {
  const { session } = state;
  const title = session ? nameOf(session) : "New session";
  Object.assign($("title"), { textContent: title, title });
  document.title = `${title} – deltamem`;
  for (const button of $("tools").children) button.disabled = !session;
  $("freeze").setAttribute("aria-pressed", String(session?.frozen ?? false));
  drawLog(looking);
  drawTimeline(versionActions);
  drawComposer();
}

function drawComposer() {
  const { session } = state;
  const busy = Boolean(state.running);
  $("log").setAttribute("aria-busy", String(busy));
  $("send").textContent = busy ? "Stop" : "Send";
  $("drop").disabled = busy || !visibleTurns().length;
  $("compare").disabled = busy || !session?.tokens_written;
  $("seen").textContent = session?.frozen ? `${context()} Frozen: nothing is written.` : context();
  drawSuggestions(send);
}

/** What the next answer will come from, in words. */
function context() {
  const seen = visibleTurns().length;
  if (seen) return `The model sees the last ${seen === 1 ? "turn" : `${seen} turns`}.`;
  return state.session?.tokens_written ? "Answers come from memory alone." : "The memory is empty.";
}

// ---- what is sent

/**
 * Runs one exchange with the server at a time; the text comes back to its box if it fails.
 * @param {string} text @param {HTMLElement} item @param {(signal: AbortSignal) => Promise<void>} exchange
 * @param {() => Promise<void> | void} done called when it did not fail
 */
async function exchanging(text, item, exchange, done) {
  const { signal } = (state.running = new AbortController());
  state.pending = item;
  $("message").value = "";
  append(item);
  drawComposer();
  toMessage();
  await act(async () => {
    try {
      await exchange(signal);
      $("said").textContent = [...item.querySelectorAll(".assistant")].map((said) => said.innerText).join("\n");
    } catch (error) {
      item.remove();
      if (!$("message").value) $("message").value = text;
      throw error;
    } finally {
      state.running = state.pending = null;
    }
    await done();
  });
  draw();
  await drawShades().catch(fail);
}

/** @param {string} text */
async function send(text) {
  if (state.running || !text.trim()) return;
  if (!state.session) await attempt(async () => go(await create()));
  if (!state.session) return;
  const { session } = state;
  const question = { role: "user", content: text.trim() };
  const visible = visibleTurns();
  const messages = [...visible.flatMap((turn) => turn.messages), question];
  const { item, push, text: answer } = pendingItem(question.content);
  const exchange = async (signal) => {
    const memory = await api.chat(session.id, session.frozen ? "read_only" : "read_write", messages, push, signal);
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
  };
  await exchanging(text, item, exchange, () => state.session?.id === session.id && reread());
}

/** What became of a turn, in words. @param {any} memory */
function noteOf(memory) {
  if (!memory.version) return "Nothing was written.";
  const dropped = memory.dropped_messages ? ` · ${memory.dropped_messages} older messages did not fit` : "";
  return `${memory.written_tokens} tokens written · changed by ${shown(memory.change)}${dropped}`;
}

async function compare() {
  const text = $("message").value.trim();
  if (!text) {
    toMessage();
    throw new Error("Type a question to compare.");
  }
  const { session } = state;
  const { item, push } = pairItem(text);
  const messages = [...visibleTurns().flatMap((turn) => turn.messages), { role: "user", content: text }];
  const exchange = async (signal) => {
    const modes = ["read_only", "off"];
    await Promise.all(modes.map((mode, i) => api.chat(session.id, mode, messages, push[i], signal)));
  };
  await exchanging(text, item, exchange, () => void state.pairs.push({ after: state.turns.length, item }));
}

async function drop() {
  const unseen = (turns) => turns.map((turn) => ({ ...turn, visible: false }));
  state.turns = unseen(state.turns);
  save(state.session.id, unseen(load(state.session.id)));
  draw();
  toMessage();
  await drawShades();
}

// ---- what changes the session

/** @param {number} version */
async function rollback(version) {
  await api.rollback(state.session.id, version);
  await reread();
  toMessage();
}

async function freeze() {
  state.session = { ...state.session, ...(await api.freeze(state.session.id, !state.session.frozen)) };
  draw();
  await drawShades();
  await list();
}

// ---- what it knows

/** @param {string[]} questions */
const know = (questions) =>
  act(() =>
    askMemory(questions, (action) =>
      act(async () => {
        if (!(await action())) return;
        await reread();
        await know(questions);
      }),
    ),
  );

// ---- wiring

/** @param {string} id @param {() => Promise<void> | void} action */
const on = (id, action) => $(id).addEventListener("click", () => act(action));

on("new", () => go(""));
on("rename", async () => (await rename()) && reread());
on("fork", async () => go(await fork(state.timeline[0].version)));
on("freeze", freeze);
on("export", exportMemory);
on("delete", async () => (await remove()) && go(""));
on("drop", drop);
on("compare", compare);
on("key-open", askKey);
on("more", more);
on("ask-no", () => $("ask").close("no"));
$("error").querySelector("button").addEventListener("click", () => ($("error").hidden = true));
let typed;
$("search").addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(() => attempt(list), 150);
});
$("shade").addEventListener("change", () => attempt(() => (drawLog(looking), drawShades())));
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (state.running) state.running.abort();
  else send($("message").value);
});
$("known-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = $("known-question").value.trim();
  know(question ? [question] : []);
});
$("message").addEventListener("keydown", (event) => {
  if (event.key === "Escape") state.running?.abort();
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!state.running) send($("message").value);
});
readTokens($("log"), tellToken);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
addEventListener("hashchange", () => attempt(() => open(location.hash.slice(1))));
$("sessions").addEventListener("click", (event) => {
  if (event.target.closest("a")?.hash === location.hash) show("chat"); // it is open already, so the address does not change
});
addEventListener("key", () => attempt(begin));

async function begin() {
  state.about = await api.about();
  $("model").textContent = state.about.model;
  $("key-open").hidden = !state.about.needs_key;
  if (state.about.needs_key && !getKey()) return askKey();
  await open(location.hash.slice(1));
}

attempt(begin);
