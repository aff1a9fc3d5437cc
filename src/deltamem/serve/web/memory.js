/** The memory of a version, what changed in it, and the versions there are. */

import { api } from "./api.js";
import { $, element } from "./dom.js";
import { Heatmap, shown } from "./heatmap.js";
import { state } from "./state.js";

const say = (text) => ($("value").textContent = text);
const held = new Heatmap($("held"), "Memory", say);
const change = new Heatmap($("change"), "Change", say);

/** Draws the matrices again in the colours of the theme. */
export function repaint() {
  held.paint();
  change.paint();
}

/** The difference of two nested arrays of numbers. @param {any} a @param {any} b @returns {any} */
const minus = (a, b) => (Array.isArray(a) ? a.map((part, i) => minus(part, b[i])) : a - b);

export async function drawMemory() {
  const { session, version, about } = state;
  for (const id of ["change-part", "value", "timeline-part"]) $(id).hidden = !session;
  if (!session) {
    $("held-title").textContent = "What it holds";
    $("facts").textContent = "Empty so far.";
    held.show(null, [], "The memory starts empty. What you say is written into small matrices, which are drawn here.");
    return;
  }
  const parent = state.timeline.find((point) => point.version === version)?.parent;
  const kept = state.timeline.some((point) => point.version === parent);
  const [now, before] = await Promise.all([api.memory(session.id, version), kept ? api.memory(session.id, parent) : null]);
  if (state.version !== version || state.session?.id !== session.id) return;
  held.show(now.states, about.layers);
  const none = parent ? `Version ${parent} is no longer kept.` : "This is the first version.";
  change.show(before && minus(now.states, before.states), about.layers, none);
  $("held-title").textContent = `What v${version} holds`;
  $("change-title").textContent = parent ? `Changed since v${parent}` : "Change";
  const numbers = now.states.flat(3);
  const [layers, states, side] = [now.states.length, now.states[0].length, now.states[0][0].length];
  const facts = [
    `${layers} layers × ${states} states × ${side}×${side}`,
    `${(numbers.length * 4) / 1024} KiB · ${now.tokens_written} tokens · norm ${shown(Math.hypot(...numbers))}`,
  ];
  $("facts").replaceChildren(...facts.map((fact) => element("span", {}, fact)));
}

/** @param {Record<"look" | "rollback" | "fork", (version: number) => void>} actions what can be done with a version */
export function drawTimeline({ look, rollback, fork }) {
  const head = state.timeline[0]?.version;
  $("timeline").replaceChildren(
    ...state.timeline.map(({ version, kind, origin, created, tokens_written }, i) => {
      const item = element("li");
      const written = tokens_written - (state.timeline[i + 1]?.tokens_written ?? tokens_written);
      const what = kind === "rollback" ? `back to v${origin}` : kind === "fork" ? `fork of v${origin}` : kind;
      const button = element("button", { type: "button", className: "version", onclick: () => look(version) });
      button.append(element("b", {}, `v${version}`), ` ${what}${written > 0 ? ` +${written}` : ""}`);
      if (version === state.version) button.setAttribute("aria-current", "true");
      const when = new Date(created * 1000);
      const time = element("time", { dateTime: when.toISOString(), title: when.toLocaleString() });
      time.append(when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
      item.append(button, time, ...(version === head ? [] : [link("Roll back", version, rollback)]), link("Fork", version, fork));
      return item;
    }),
  );
}

/** @param {string} name @param {number} version @param {(version: number) => void} action */
function link(name, version, action) {
  const button = element("button", { type: "button", className: "link", onclick: () => action(version) }, name);
  button.setAttribute("aria-label", `${name}: version ${version}`);
  return button;
}
