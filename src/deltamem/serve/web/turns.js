/** What was said in a session, as far as this tab or the server knows it. The tab forgets with its closing. */

import { api } from "./api.js";

/**
 * A turn: the messages it added, and how much of what came before the model could see.
 * @typedef {{version: number, home: ?{session: string, version: number}, messages: import("./api.js").Message[],
 *   seen: number, visible: boolean, written: boolean, note: string}} Turn
 *
 * `home` is the version that wrote it, where that is known and kept; `seen` counts the turns before it that were sent with it;
 * `visible` tells whether it will be sent with the next one; `written`, whether it is in the memory.
 */

const name = (session) => `deltamem-turns:${session}`;

/** @param {string} session @returns {Turn[]} all turns of this tab, those undone too */
export const load = (session) => JSON.parse(sessionStorage.getItem(name(session)) ?? "[]");

/** @param {string} session @param {Turn[]} turns */
export const save = (session, turns) => sessionStorage.setItem(name(session), JSON.stringify(turns));

/** @param {string} session */
export const forget = (session) => sessionStorage.removeItem(name(session));

/**
 * The versions that led to one: a rollback continues from what it took up again, and what began anew from nothing.
 * @param {import("./api.js").Version[]} timeline @param {number} head @returns {(version: number) => boolean}
 */
function ledTo(timeline, head) {
  const known = new Map(timeline.map((version) => [version.version, version]));
  const path = new Set();
  let [number, anew] = [head, false];
  while (known.has(number) && !anew) {
    path.add(number);
    const { kind, origin, parent } = known.get(number);
    anew = kind === "forget" || kind === "import";
    number = kind === "rollback" ? origin : parent;
  }
  const oldest = Math.min(...known.keys());
  return (version) => path.has(version) || (!anew && version < oldest); // what is no longer kept can no longer be undone
}

/**
 * The turns of this tab that led to a version.
 * @param {string} session @param {import("./api.js").Version[]} timeline @param {number} version
 */
export const turnsTo = (session, timeline, version) => {
  const leads = ledTo(timeline, version);
  return load(session).filter((turn) => leads(turn.version));
};

/**
 * The turns that led to a session's head.
 * @param {string} session @param {import("./api.js").Version[]} timeline @param {boolean} kept whether the server keeps text
 * @returns {Promise<Turn[]>}
 */
export async function turnsOf(session, timeline, kept) {
  const there = new Set(timeline.map((version) => version.version));
  const lost = ({ home }) => home?.session === session && !there.has(home.version);
  const mine = turnsTo(session, timeline, timeline[0].version).map((turn) => (lost(turn) ? { ...turn, home: null } : turn));
  if (!kept) return mine;
  const log = (await api.messages(session)).data;
  const written = mine.filter((turn) => turn.written).flatMap((turn) => turn.messages);
  if (log.length === written.length) return mine;
  // Others wrote to it, or this tab is new: the server's log counts.
  const known = new Map(mine.map((turn) => [turn.version + turn.messages[0].content, turn]));
  const turns = grouped(log).map((messages) => {
    const { version } = messages[0];
    const home = timeline.some((v) => v.version === version && v.kind !== "fork") ? { session, version } : null;
    const plain = messages.map(({ role, content }) => ({ role, content }));
    return known.get(version + plain[0].content) ?? { version, home, messages: plain, seen: 0, visible: false, written: true, note: "" };
  });
  save(session, [...load(session).filter((turn) => !mine.some((other) => other.version === turn.version)), ...turns]);
  return turns;
}

/** The messages of a log, turn by turn. @param {(import("./api.js").Message & {version: number})[]} log */
function grouped(log) {
  const turns = [];
  log.forEach((message, i) => {
    const before = log[i - 1];
    const goesOn = before?.version === message.version && !(before.role === "assistant" && message.role !== "assistant");
    if (goesOn) turns.at(-1).push(message);
    else turns.push([message]);
  });
  return turns;
}

/** What a turn was sent with, and what it added. @param {Turn[]} turns @param {number} at */
export const sentWith = (turns, at) => turns.slice(at - turns[at].seen, at + 1).flatMap((turn) => turn.messages);
