/** The shading of what was said by what the server weighs: which tokens were written and read, and how strongly. */

import { api } from "./api.js";
import { $ } from "./dom.js";
import { shown } from "./heatmap.js";
import { keepingPlace } from "./log.js";
import { state } from "./state.js";
import { shade } from "./transcript.js";
import { sentWith } from "./turns.js";

/** @type {Map<string, ?import("./api.js").Strengths[]>} turns do not change; null for one that cannot be weighed */
const weighed = new Map();

/** @returns {"none" | "write" | "read"} */
export const shading = () => document.querySelector("input[name=shade]:checked").value;

export async function drawShades() {
  const by = shading();
  keepingPlace(() => ($("shades").hidden = by === "none"));
  if (by === "none") return;
  const { session, turns } = state;
  const found = await Promise.all(turns.map((_, i) => strengthsOf(turns, i)));
  if (state.turns !== turns || state.session !== session || shading() !== by) return;
  const values = found.flatMap((messages) => (messages ?? []).flatMap((message) => message.tokens.map((token) => token[by] ?? 0)));
  const some = values.filter((value) => value > 0); // an empty memory gives nothing to read
  const [least, most] = some.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, 0]);
  const items = $("log").querySelectorAll(".turn:not(.pair, .pending)");
  found.forEach((messages, i) => messages && shade(items[i], messages, by, [least, most]));
  keepingPlace(() => explain(by, least, most));
}

/** Says what the shades mean. @param {"write" | "read"} by @param {number} least @param {number} most */
function explain(by, least, most) {
  $("scale").hidden = !most;
  $("scale").dataset.by = by;
  if (most) [$("least").textContent, $("most").textContent] = [shown(least), shown(most)];
  const how = by === "write" ? "What each token changed in memory" : "What each token read from memory";
  $("token").textContent = most ? `${how} (point, or ←\u00a0→)` : `Nothing was ${by === "write" ? "written" : "read"} here yet.`;
}

/** Says how strong a token is. @param {string} token @param {string} value */
export function tellToken(token, value) {
  $("token").textContent = `“${token.trim()}” ${shading() === "write" ? "written with" : "read with"} ${value}`;
}

/** @param {import("./turns.js").Turn[]} turns @param {number} at @returns {Promise<?import("./api.js").Strengths[]>} */
async function strengthsOf(turns, at) {
  const { home, seen } = turns[at];
  if (!home) return null;
  const key = `${home.session}@${home.version}/${seen}`;
  if (!weighed.has(key)) {
    try {
      weighed.set(key, (await api.strengths(home.session, home.version, sentWith(turns, at))).data);
    } catch (error) {
      if (![400, 404].includes(error.status)) throw error;
      weighed.set(key, null); // the version it began with is no longer kept, or others wrote to it
    }
  }
  return weighed.get(key);
}
