/** The conversation on screen, and the shading of its tokens. */

import { element } from "./dom.js";
import { shown } from "./heatmap.js";

const SPEAKERS = { user: "You", assistant: "Model", tool: "Tool" };

/** @param {import("./api.js").Message} message @returns {HTMLElement} */
function bubble(message) {
  const said = element("div", { className: `said ${message.role}` });
  said.append(element("span", { className: "who" }, SPEAKERS[message.role] ?? message.role));
  said.append(element("p", { className: "text" }, message.content));
  return said;
}

/**
 * @param {import("./turns.js").Turn} turn @param {boolean} marked its version is the one looked at
 * @param {?() => void} look shows its memory; null where it is no longer kept
 */
export function turnItem(turn, marked, look) {
  const item = element("li", { className: turn.visible ? "turn" : "turn gone" });
  item.append(...turn.messages.map(bubble));
  const meta = element("p", { className: "meta" });
  if (turn.written) meta.append(look ? link(turn.version, marked, look) : `v${turn.version} (no longer kept)`, " ");
  meta.append(turn.note);
  item.append(meta);
  return item;
}

/** @param {number} version @param {boolean} marked @param {() => void} look */
function link(version, marked, look) {
  const button = element("button", { type: "button", className: "link", onclick: look }, `v${version}`);
  button.setAttribute("aria-label", `Version ${version}: show its memory`);
  if (marked) button.setAttribute("aria-current", "true");
  return button;
}

/** @param {string} question @returns {{item: HTMLElement, push: (text: string) => void, text: () => string}} */
export function pendingItem(question) {
  const item = element("li", { className: "turn pending" });
  const answer = bubble({ role: "assistant", content: "" });
  item.append(bubble({ role: "user", content: question }), answer);
  const target = answer.querySelector(".text");
  return { item, push: (text) => target.append(text), text: () => target.textContent };
}

/** @param {string} question @returns {{item: HTMLElement, push: ((text: string) => void)[]}} two answers side by side */
export function pairItem(question) {
  const item = element("li", { className: "turn pair" });
  const answers = ["With memory", "Without memory"].map((title) => {
    const said = bubble({ role: "assistant", content: "" });
    said.querySelector(".who").textContent = title;
    return said;
  });
  const both = element("div", { className: "both" });
  both.append(...answers);
  item.append(bubble({ role: "user", content: question }), both);
  item.append(element("p", { className: "meta" }, "A comparison. It was not written to memory."));
  return { item, push: answers.map((said) => (text) => said.querySelector(".text").append(text)) };
}

/** What stands where the visible context begins. */
export const cutItem = () =>
  element("li", { className: "cut" }, "The model does not see what is above. It answers from memory.");

/**
 * Shades a turn's messages; text stays text.
 * @param {HTMLElement} item @param {import("./weights.js").Weighed[]} weighed
 * @param {"write" | "read"} by @param {[number, number]} range the weights that are shaded least and most
 */
export function shade(item, weighed, by, [least, most]) {
  const share = (value) => (most <= least ? 0 : Math.max(0, (value - least) / (most - least)));
  const texts = [...item.querySelectorAll(".text")];
  weighed.forEach((message, i) => {
    const text = texts[i];
    if (!text || !message.tokens.length) return;
    text.replaceChildren(
      ...message.tokens.map((token) => {
        const value = token[by];
        const mark = element("span", { className: `token ${by}` }, token.text);
        mark.style.setProperty("--share", share(value).toFixed(3));
        mark.dataset.value = shown(value);
        return mark;
      }),
    );
    text.tabIndex = 0;
  });
}

/**
 * Lets pointer and arrow keys read tokens' values.
 * @param {HTMLElement} log @param {(token: string, value: string) => void} say
 */
export function readTokens(log, say) {
  const mark = (token) => {
    log.querySelector(".token.here")?.classList.remove("here");
    token.classList.add("here");
    say(token.textContent, token.dataset.value);
  };
  log.addEventListener("pointerover", (event) => event.target.matches(".token") && mark(event.target));
  log.addEventListener("focusin", (event) => {
    const first = event.target.matches(".text") && event.target.querySelector(".token");
    if (first && event.target.matches(":focus-visible")) mark(first);
  });
  log.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: "previousElementSibling", ArrowRight: "nextElementSibling" }[event.key];
    if (!step || !event.target.matches(".text")) return;
    const next = event.target.querySelector(".token.here")?.[step];
    if (next) mark(next);
    event.preventDefault();
  });
}
