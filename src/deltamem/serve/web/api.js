/** What the page asks of the server. Every failure is an `ApiError` with a sentence for people. */

/**
 * @typedef {{role: string, content: string}} Message
 * @typedef {{id: string, version: number, tokens_written: number, label: ?string, frozen: boolean,
 *   created: number, updated: number, forked_from: ?string}} Session
 * @typedef {{version: number, parent: ?number, origin: ?number, kind: string, tokens_written: number,
 *   created: number}} Version
 * @typedef {{version: number, states: number[][][][], norms: number[][], tokens_written: number}} Memory
 * @typedef {{role: string, tokens: {text: string, write: number, read: ?number}[]}} Strengths
 * @typedef {{role: string, tokens: {text: string, read: number}[]}} Shares
 * @typedef {{version: number, session?: string, messages: Message[]}} PastTurn
 * @typedef {{name: string, question: string, answer: string, words: string[], known: boolean, confidence: number,
 *   source: ?{version: number, share: number, messages: {role: string, tokens: {text: string, share: number}[]}[]}}} Recalled
 * @typedef {{model: string, needs_key: boolean, keeps_messages: boolean, layers: number[],
 *   suggestions: [string, string][]}} About
 */

const KEY = "deltamem-key";

export class ApiError extends Error {
  /** @param {number} status 0 where there was no answer. @param {string} message @param {string} [code] */
  constructor(status, message, code = "") {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** @returns {string} the API key of this tab; empty if there is none. */
export const getKey = () => sessionStorage.getItem(KEY) ?? "";

/** @param {string} key */
export const setKey = (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY));

/**
 * @param {string} method @param {string} path
 * @param {{body?: object, headers?: Record<string, string>, signal?: AbortSignal}} [options]
 * @returns {Promise<Response>}
 */
async function request(method, path, { body, headers = {}, signal } = {}) {
  const all = { ...headers };
  if (body) all["Content-Type"] = "application/json";
  if (getKey()) all.Authorization = `Bearer ${getKey()}`;
  let response;
  try {
    response = await fetch(path, { method, headers: all, body: body && JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server does not answer. Is it running?");
  }
  if (response.ok) return response;
  const detail = (await response.json().catch(() => ({}))).error ?? {};
  throw new ApiError(response.status, detail.message ?? `The server answered ${response.status}.`, detail.code);
}

const json = async (...args) => (await request(...args)).json();
const at = (session, rest = "") => `/v1/sessions/${encodeURIComponent(session)}${rest}`;

export const api = {
  /** @returns {Promise<About>} */
  about: () => json("GET", "/page.json"),
  /** @param {string} search @param {string} [after] @returns {Promise<{data: Session[], after: ?string}>} */
  list: (search, after = "") => {
    const query = new URLSearchParams({ limit: "50" });
    if (search) query.set("search", search);
    if (after) query.set("after", after);
    return json("GET", `/v1/sessions?${query}`);
  },
  /** @param {string} label @returns {Promise<Session>} */
  create: (label) => json("POST", "/v1/sessions", { body: { label } }),
  /** @param {string} session @returns {Promise<Session & {norms: number[][], bytes: number}>} */
  get: (session) => json("GET", at(session)),
  /** @param {string} session @param {?string} label */
  label: (session, label) => json("PATCH", at(session), { body: { label } }),
  /** @param {string} session */
  delete: (session) => json("DELETE", at(session)),
  /** @param {string} session @param {?number} version @param {?string} label @returns {Promise<Session>} */
  fork: (session, version, label) => json("POST", at(session, "/fork"), { body: { version, label } }),
  /** @param {string} session @param {number} version @returns {Promise<Session>} */
  rollback: (session, version) => json("POST", at(session, "/rollback"), { body: { version } }),
  /** @param {string} session @param {boolean} frozen @returns {Promise<Session>} */
  freeze: (session, frozen) => json("POST", at(session, "/freeze"), { body: { frozen } }),
  /** @param {string} session @returns {Promise<{data: Version[]}>} */
  timeline: (session) => json("GET", at(session, "/timeline?limit=1000")),
  /** @param {string} session @returns {Promise<{kept: boolean, data: (Message & {version: number})[]}>} */
  messages: (session) => json("GET", at(session, "/messages?limit=1000")),
  /** @param {string} session @param {number} version @returns {Promise<Memory>} */
  memory: (session, version) => json("GET", at(session, `/memory?version=${version}`)),
  /** @param {string} session @param {number} version @param {Message[]} messages @returns {Promise<{data: Strengths[]}>} */
  strengths: (session, version, messages) => json("POST", at(session, "/strengths"), { body: { version, messages } }),
  /**
   * @param {string} session @param {number} version @param {Message[]} messages @param {PastTurn[]} past
   * @returns {Promise<{data: {session: string, version: number, messages: Shares[]}[]}>}
   */
  sources: (session, version, messages, past) => json("POST", at(session, "/sources"), { body: { version, messages, past } }),
  /** @param {string} session @param {?string[]} questions null for the profile @returns {Promise<{data: Recalled[]}>} */
  recall: (session, questions) => json("POST", at(session, "/recall"), { body: { questions } }),
  /** @param {string} session @param {{words?: string[], versions?: number[], question?: string, answer?: string}} fact */
  forget: (session, fact) => json("POST", at(session, "/forget"), { body: fact }),
  /** @param {string} session @param {string} text */
  observe: (session, text) => json("POST", at(session, "/observe"), { body: { text } }),
  /** @param {string} session @returns {Promise<Blob>} */
  export: async (session) => (await request("GET", at(session, "/export?format=file"))).blob(),

  /**
   * Streams an answer. It is complete, and its turn committed, once this returns.
   * @param {string} session @param {"read_write" | "read_only" | "off"} mode @param {Message[]} messages
   * @param {(text: string) => void} onText called with each piece @param {AbortSignal} [signal]
   * @returns {Promise<object>} what the server says of the memory
   */
  async chat(session, mode, messages, onText, signal) {
    // Without this a session that was deleted elsewhere would begin again, empty.
    const options = mode === "read_write" ? { mode, must_exist: true } : { mode };
    const body = { messages, stream: true, temperature: 0, memory: options };
    const headers = { "X-Memory-Session": session };
    const response = await request("POST", "/v1/chat/completions", { body, headers, signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let [rest, memory] = ["", null];
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        if (error.name === "AbortError") throw error;
        throw new ApiError(0, "The connection broke off; the turn may not have been written.");
      });
      if (done) throw new ApiError(0, "The answer broke off before it was complete; nothing was written.");
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.replace(/^data: /, "");
        if (data === "[DONE]") return memory;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ApiError(500, chunk.error.message, chunk.error.code);
        memory = chunk.memory ?? memory;
        const text = chunk.choices[0]?.delta.content;
        if (text) onText(text);
      }
    }
  },
};
