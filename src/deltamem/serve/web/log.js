/** The turns of the open session on screen, and what might be said next. */

import { $, element } from "./dom.js";
import { state } from "./state.js";
import { cutItem, turnItem } from "./transcript.js";

/** @param {(version: number) => void} look shows the memory of a version */
export function drawLog(look) {
  const [items, pairs] = [[], [...state.pairs]];
  const kept = new Set(state.timeline.map((point) => point.version));
  let gone = false;
  state.turns.forEach((turn, i) => {
    if (gone && turn.visible) items.push(cutItem());
    gone = !turn.visible;
    const open = kept.has(turn.version) ? () => look(turn.version) : null;
    items.push(turnItem(turn, turn.version === state.version, open));
    while (pairs[0]?.after === i + 1) items.push(pairs.shift().item);
  });
  if (gone) items.push(cutItem());
  items.push(...pairs.map((pair) => pair.item));
  if (state.pending) items.push(state.pending);
  if (!items.length) items.push(emptiness());
  keepingPlace(() => $("log").replaceChildren(...items));
}

/** @param {HTMLElement} item */
export function append(item) {
  $("log").querySelector(".none")?.remove();
  $("log").append(item);
  item.scrollIntoView({ block: "end" });
}

/** Whoever reads the end of the log goes on reading its end. @param {() => void} change */
export function keepingPlace(change) {
  const log = $("log");
  const place = log.scrollTop;
  const end = log.scrollHeight - log.clientHeight - place < 60;
  change();
  log.scrollTop = end ? log.scrollHeight : place;
}

function emptiness() {
  const item = element("li", { className: "none" });
  if (state.session?.tokens_written) {
    item.append("This server keeps no text, so what was said is gone. The memory of it is there: ask.");
    return item;
  }
  const steps = element("ol");
  steps.append(
    element("li", {}, "Tell the model something."),
    element("li", {}, "Drop context: nothing said is sent again."),
    element("li", {}, "Ask. What it still knows is in its memory."),
  );
  item.append(steps);
  return item;
}

/** @param {(text: string) => void} send */
export function drawSuggestions(send) {
  const said = new Set(state.turns.flatMap((turn) => turn.messages.map((message) => message.content)));
  const group = (title, texts) => {
    const box = element("div", { role: "group", className: "chips" });
    box.setAttribute("aria-label", title);
    box.append(element("span", {}, title));
    const disabled = Boolean(state.running);
    box.append(...texts.map((text) => element("button", { type: "button", disabled, onclick: () => send(text) }, text)));
    return texts.length ? [box] : [];
  };
  const { suggestions } = state.about;
  const tell = suggestions.filter(([text]) => !said.has(text)).slice(0, 3).map(([text]) => text);
  const ask = suggestions.filter(([text]) => said.has(text)).map(([, question]) => question);
  $("suggestions").replaceChildren(...group("Ask it", [...new Set(ask)]), ...group("Tell it", tell));
  $("suggestions").hidden = !$("suggestions").childElementCount;
  $("suggestions").classList.toggle("line", said.size > 0); // the turns need the room
}
