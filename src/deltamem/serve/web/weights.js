/** What the server weighs: how strongly each token was written, and how much an answer read of it. */

import { api } from "./api.js";
import { sentWith } from "./turns.js";

/**
 * A message and the weights of its tokens: `write`, how strongly each was written, or `read`, how much of what was read it wrote.
 * @typedef {{role: string, tokens: {text: string, write?: number, read?: number}[]}} Weighed
 * @typedef {import("./turns.js").Turn} Turn
 */

/** @type {Map<string, Promise<any>>} what was asked for, answered or not; turns do not change */
const asked = new Map();
/** @type {Promise<any>} what was asked for last */
let last = Promise.resolve();

/**
 * What is asked for once, after all that was asked for before: the server refuses many at once. Null for what cannot be weighed.
 * @template T @param {string} key @param {() => Promise<T>} ask @returns {Promise<?T>}
 */
function once(key, ask) {
  if (!asked.has(key)) {
    const answer = last.then(ask).catch((error) => {
      if ([400, 404].includes(error.status)) return null; // a version that it needs is no longer kept, or others wrote in between
      asked.delete(key);
      throw error;
    });
    asked.set(key, answer);
    last = answer.catch(() => {});
  }
  return asked.get(key);
}

const nameOf = ({ session, version }) => `${session}@${version}`;

/**
 * How strongly each turn's tokens were written; null for a turn that cannot be weighed.
 * @param {Turn[]} turns @returns {Promise<(?Weighed[])[]>}
 */
export async function writtenIn(turns) {
  const found = [];
  for (const [i, { home, seen }] of turns.entries()) {
    const ask = async () => (await api.strengths(home.session, home.version, sentWith(turns, i))).data;
    found.push(home && (await once(`${nameOf(home)}/${seen}`, ask)));
  }
  return found;
}

/**
 * How much the answer of one turn read of each turn's tokens; null for the turns that it cannot be told of.
 * @param {Turn[]} turns @param {number} at the turn with the answer
 * @returns {Promise<(?Weighed[])[]>}
 */
export async function readOf(turns, at) {
  const answer = turns[at];
  const before = turns.slice(0, Math.max(at, 0));
  const lost = before.findLastIndex((turn) => turn.written && !turn.home);
  const past = before.slice(lost + 1).filter((turn) => turn.home);
  const none = turns.map(() => null);
  if (!answer || !past.length) return none;
  const { session, version } = answer.home;
  const sent = past.map(({ home, messages }) => ({ ...home, messages }));
  const ask = async () => (await api.sources(session, version, sentWith(turns, at), sent)).data;
  const found = await once(`${nameOf(answer.home)}/${answer.seen}<${past.map((turn) => nameOf(turn.home))}`, ask);
  if (!found) return none;
  const shares = new Map(found.map((turn) => [nameOf(turn), turn.messages]));
  return turns.map(({ home }) => (home && shares.get(nameOf(home))) ?? null);
}
