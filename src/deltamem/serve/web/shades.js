/** The shading of what was said: how strongly each token was written, or how much an answer read of it. */

import { $ } from "./dom.js";
import { shown } from "./heatmap.js";
import { keepingPlace } from "./log.js";
import { state } from "./state.js";
import { shade } from "./transcript.js";
import { readOf, writtenIn } from "./weights.js";

/** @returns {"none" | "write" | "read"} */
export const shading = () => document.querySelector("input[name=shade]:checked").value;

export async function drawShades() {
  const by = shading();
  keepingPlace(() => ($("shades").hidden = by === "none"));
  if (by === "none") return;
  const { session, turns, version } = state;
  const at = answerAt(turns, version);
  const found = await (by === "write" ? writtenIn(turns) : readOf(turns, at));
  if (state.turns !== turns || state.session !== session || state.version !== version || shading() !== by) return;
  const values = found.flatMap((messages) => (messages ?? []).flatMap((message) => message.tokens.map((token) => token[by])));
  const some = values.filter((value) => value > 0); // an empty memory gives nothing to read
  const [least, most] = some.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, 0]);
  const items = $("log").querySelectorAll(".turn:not(.pair, .pending)");
  found.forEach((messages, i) => messages && shade(items[i], messages, by, [least, most]));
  keepingPlace(() => explain(by, least, most, turns[at]));
}

/**
 * The turn whose answer is asked about: that of the version looked at, or else the last.
 * @param {import("./turns.js").Turn[]} turns @param {?number} version
 */
function answerAt(turns, version) {
  const answered = (turn) => turn.home && turn.messages.at(-1).role === "assistant";
  const looked = turns.findLastIndex((turn) => answered(turn) && turn.version === version);
  return looked < 0 ? turns.findLastIndex(answered) : looked;
}

/**
 * Says what the shades mean.
 * @param {"write" | "read"} by @param {number} least @param {number} most @param {import("./turns.js").Turn} [answer]
 */
function explain(by, least, most, answer) {
  $("scale").hidden = !most;
  $("scale").dataset.by = by;
  if (most) [$("least").textContent, $("most").textContent] = [shown(least), shown(most)];
  const read = answer ? `v${answer.version}’s answer` : "no answer";
  const how = by === "write" ? "What each token changed in memory" : `What ${read} read of each token before it`;
  const nothing = by === "write" ? "Nothing was written here yet." : `${read} read nothing that was written here.`;
  $("token").textContent = most ? `${how} (point, or ←\u00a0→)` : nothing;
}

/** Says how strong a token is. @param {string} token @param {string} value */
export function tellToken(token, value) {
  $("token").textContent = `“${token.trim()}” ${shading() === "write" ? "written with" : "read with"} ${value}`;
}
