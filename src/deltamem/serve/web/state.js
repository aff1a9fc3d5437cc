/** What the page knows. Everything on it is drawn from this. */

export const state = {
  /** @type {import("./api.js").About} */ about: null,
  /** @type {import("./api.js").Session[]} those listed at the side */ sessions: [],
  /** @type {?string} where the list goes on */ after: null,
  /** @type {?import("./api.js").Session} the one that is open; null for one that its first message will make */ session: null,
  /** @type {import("./api.js").Version[]} */ timeline: [],
  /** @type {import("./turns.js").Turn[]} */ turns: [],
  /** @type {?number} the version whose memory is shown */ version: null,
  /** @type {{after: number, item: HTMLElement}[]} comparisons, each after so many turns */ pairs: [],
  /** @type {?AbortController} of the answer that is being given */ running: null,
  /** @type {?HTMLElement} where that answer appears */ pending: null,
};

/** @param {import("./api.js").Session} session */
export const nameOf = (session) => session.label ?? session.id;

/** @returns {import("./turns.js").Turn[]} those that are sent along with the next one */
export const visibleTurns = () => state.turns.filter((turn) => turn.visible);
