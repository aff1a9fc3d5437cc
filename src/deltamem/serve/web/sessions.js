/** The sessions at the side, and what can be done with one. */

import { api } from "./api.js";
import { ask } from "./dialogs.js";
import { $, element } from "./dom.js";
import { nameOf, state } from "./state.js";
import { forget, save, turnsTo } from "./turns.js";

let asked = 0; // answers may overtake each other: only the last request's counts

export async function list() {
  const mine = ++asked;
  const page = await api.list($("search").value.trim());
  if (mine !== asked) return;
  state.sessions = page.data;
  state.after = page.after;
  drawSessions();
}

export async function more() {
  const mine = asked;
  const page = await api.list($("search").value.trim(), state.after);
  if (mine !== asked) return;
  state.sessions.push(...page.data);
  state.after = page.after;
  drawSessions();
}

function drawSessions() {
  const items = state.sessions.map((session) => {
    const item = element("li");
    const link = element("a", { href: `#${session.id}` });
    link.append(element("span", { className: "name" }, nameOf(session)));
    const details = [`${session.tokens_written} tokens`, session.frozen && "frozen", session.forked_from && "fork"];
    link.append(element("span", { className: "meta" }, details.filter(Boolean).join(" · ")));
    if (session.id === state.session?.id) link.setAttribute("aria-current", "page");
    item.append(link);
    return item;
  });
  const none = $("search").value.trim() ? "No session has this in its name or label." : "No sessions yet.";
  $("sessions").replaceChildren(...(items.length ? items : [element("li", { className: "none" }, none)]));
  $("more").hidden = !state.after;
}

/** A label that no session has yet: numbered, where there is one of the same minute. @param {string} wanted */
async function unused(wanted) {
  const start = wanted.slice(0, 190);
  const taken = new Set((await api.list(start)).data.map((session) => session.label));
  let label = start;
  for (let number = 2; taken.has(label); number++) label = `${start} (${number})`;
  return label;
}

/** @returns {Promise<string>} the new session's id */
export async function create() {
  const when = new Date().toLocaleString([], { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
  // The label names no word of the conversation: servers may keep labels and no text.
  const session = await api.create(await unused(when));
  save(session.id, []);
  return session.id;
}

/** @param {number} version @returns {Promise<string>} the fork's id */
export async function fork(version) {
  const { session, timeline } = state;
  const made = await api.fork(session.id, version, await unused(`Fork of ${nameOf(session)}`));
  save(made.id, turnsTo(session.id, timeline, version).map((turn) => ({ ...turn, version: made.version })));
  return made.id;
}

/** @returns {Promise<boolean>} whether it has another label now */
export async function rename() {
  const label = await ask({ title: "Label this session", label: "Label", value: state.session.label ?? "", yes: "Save" });
  if (label === null) return false;
  await api.label(state.session.id, label.trim() || null);
  return true;
}

export async function exportMemory() {
  const url = URL.createObjectURL(await api.export(state.session.id));
  element("a", { href: url, download: `${nameOf(state.session).replace(/[^\w.-]+/g, "-")}.safetensors` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** @returns {Promise<boolean>} whether it is gone */
export async function remove() {
  const text = `${nameOf(state.session)}, with all versions of its memory and all that was kept of its text. This cannot be undone.`;
  if ((await ask({ title: "Delete this session?", text, yes: "Delete" })) === null) return false;
  await api.delete(state.session.id);
  forget(state.session.id);
  return true;
}
