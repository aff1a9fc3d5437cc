/** What the memory knows of whoever talked to it: each answer with its source, to be corrected or forgotten. */

import { api } from "./api.js";
import { ask } from "./dialogs.js";
import { $, element } from "./dom.js";
import { forget, load, save } from "./turns.js";
import { state } from "./state.js";

/**
 * @typedef {import("./api.js").Recalled} Recalled
 * @typedef {(action: () => Promise<boolean>) => void} Changing
 */

/** @param {HTMLElement[]} items @param {string} [status] */
function put(items, status = "") {
  $("known").replaceChildren(...items);
  $("known-status").textContent = status;
}

/** Takes away what was shown, which is of another memory now. */
export function clearKnown() {
  put([]);
  $("known-part").hidden = !state.session;
}

/** @param {string[]} questions none for the profile @param {Changing} change runs what changes the memory */
export async function askMemory(questions, change) {
  const { id } = state.session;
  put([], "Asking…");
  $("known-part").setAttribute("aria-busy", "true");
  try {
    const found = await api.recall(id, questions.length ? questions : null);
    if (state.session?.id === id) show(found.data, change);
  } catch (error) {
    put([]);
    throw error;
  } finally {
    $("known-part").setAttribute("aria-busy", "false");
  }
}

/** @param {Recalled[]} found @param {Changing} change */
function show(found, change) {
  const known = found.filter((one) => one.known).sort((a, b) => b.confidence - a.confidence);
  const not = found.filter((one) => !one.known).map((one) => one.name);
  const status = known.length ? (not.length ? `Not known: ${not.join(", ")}.` : "") : "It knows none of this.";
  put(known.map((one) => line(one, change)), status);
}

/** @param {Recalled} one @param {Changing} change */
function line(one, change) {
  const item = element("li");
  const head = element("p", { className: "answer" });
  const sure = `${Math.round(one.confidence * 100)} %`;
  head.append(element("span", {}, one.name), " ", element("b", {}, one.answer), " ");
  head.append(element("span", { className: "sure", title: "How sure it is that this is right" }, sure));
  item.append(head);
  if (one.source) item.append(source(one.source));
  const row = element("div", { className: "row" });
  row.append(button("Correct", one, () => change(() => correct(one))), button("Forget this", one, () => change(() => drop(one))));
  item.append(row);
  return item;
}

/** @param {NonNullable<Recalled["source"]>} source what was said, with the words that the answer came from */
function source({ version, share, messages }) {
  const most = Math.max(...messages.flatMap((message) => message.tokens.map((token) => token.share)));
  const said = element("blockquote", { title: `Version ${version}: ${Math.round(share * 100)} % of the evidence` });
  for (const { role, tokens } of messages.filter((message) => message.tokens.some((token) => token.share > most / 4))) {
    const text = element("p");
    text.append(element("span", { className: "who" }, role === "user" ? "You" : "Model"), " ");
    for (const token of tokens) {
      text.append(token.share > most / 4 ? element("mark", {}, token.text) : token.text);
    }
    said.append(text);
  }
  return said;
}

/** @param {string} name @param {Recalled} one @param {() => void} onclick */
function button(name, one, onclick) {
  const made = element("button", { type: "button", className: "link", onclick }, name);
  made.setAttribute("aria-label", `${name}: ${one.name}, ${one.answer}`);
  return made;
}

/** @param {Recalled} one @returns {Promise<boolean>} whether the memory is another now */
async function correct(one) {
  const text = `It answers “${one.answer}” to “${one.question}” What is right? Say it as you would in a message.`;
  const right = await ask({ title: "Correct this", text, label: "Message", yes: "Correct" });
  if (!right?.trim()) return false;
  const { id } = state.session;
  await without(one);
  await api.observe(id, right.trim());
  return true;
}

/** @param {Recalled} one @returns {Promise<boolean>} whether the memory is another now */
async function drop(one) {
  const exact = "The turns that say it are taken out of the memory and deleted. This cannot be undone.";
  const traces = "The server has no text of it, so the memory is changed until it no longer answers so. The fact stays in its numbers.";
  const question = { title: `Forget “${one.answer}”?`, text: one.source ? exact : traces, yes: "Forget" };
  if ((await ask(question)) === null) return false;
  await without(one);
  return true;
}

/** @param {Recalled} one */
async function without({ question, answer, words, source }) {
  const { id } = state.session;
  if (source) {
    try {
      await api.forget(id, { words });
    } catch (error) {
      if (error.status !== 404) throw error;
      await api.forget(id, { versions: [source.version] }); // no turn has the words
    }
    forget(id); // the server's log counts from now on
  } else {
    await api.forget(id, { question, answer });
    const says = (/** @type {string} */ text) => words.every((word) => text.toLowerCase().includes(word.toLowerCase()));
    save(id, load(id).filter((turn) => !turn.messages.some((message) => says(message.content))));
  }
}
