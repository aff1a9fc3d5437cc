/** A client of the memories of a running `deltamem serve --keep-messages`, for Node, browsers and workers. */

/** Whose memories: of a user, an agent and a run, at least one of them. */
export interface Whose {
  userId?: string;
  agentId?: string;
  runId?: string;
}

export type Metadata = Record<string, string | number | boolean>;

export interface Message {
  role: "user" | "assistant" | "system" | "tool";
  content: string;
}

/** A text that is remembered; `memory` is the text. */
export interface Memory {
  id: string;
  memory: string;
  role: string;
  session: string;
  userId: string | null;
  agentId: string | null;
  runId: string | null;
  metadata: Metadata;
  createdAt: Date;
  updatedAt: Date;
  /** How well it fits a search. */
  score: number | null;
}

export interface Added {
  id: string;
  memory: string;
  role: string;
}

/** What a session's state says to a query by itself, and how sure that is. */
export interface Answer {
  session: string;
  answer: string;
  known: boolean;
  confidence: number;
}

export interface Found {
  results: Memory[];
  answers: Answer[];
}

export interface Change {
  memoryId: string;
  event: "ADD" | "UPDATE";
  oldMemory: string | null;
  newMemory: string;
  createdAt: Date;
}

export interface Options {
  /** The server's address, such as http://127.0.0.1:8000. */
  url: string;
  apiKey?: string;
  /** Milliseconds that an answer may take; ten minutes by default. */
  timeout?: number;
  fetch?: typeof fetch;
}

/** The server refused something; the message says what and why. */
export class MemoryRefusedError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code: string | null,
  ) {
    super(message);
    this.name = "MemoryRefusedError";
  }
}

export class MemoryClient {
  readonly #base: string;
  readonly #headers: Record<string, string>;
  readonly #timeout: number;
  readonly #fetch: typeof fetch;

  constructor(options: Options) {
    this.#base = `${options.url.replace(/\/+$/, "").replace(/\/v1$/, "")}/v1/memories`;
    this.#headers = options.apiKey === undefined ? {} : { Authorization: `Bearer ${options.apiKey}` };
    this.#timeout = options.timeout ?? 600_000;
    this.#fetch = options.fetch ?? fetch;
  }

  /** Remembers a text, or messages; each gets an id. */
  async add(messages: string | Message[], options: Whose & { metadata?: Metadata }): Promise<Added[]> {
    const { metadata, ...whose } = options;
    const body = { messages, metadata, ...named(whose) };
    return (await this.#ask<{ results: Added[] }>("POST", "", body)).results;
  }

  /**
   * The texts that fit a query, and what the states say to it, unless `ask` is false. By default `vectors` finds them
   * by meaning too where the server has a model for embeddings.
   */
  async search(query: string, options: Whose & { limit?: number; ask?: boolean; vectors?: boolean }): Promise<Found> {
    const { limit, ask, vectors, ...whose } = options;
    const found = await this.#ask<{ results: Sent[]; answers: Answer[] }>("POST", "/search", {
      query,
      limit,
      ask,
      vectors,
      ...named(whose),
    });
    return { results: found.results.map(memoryOf), answers: found.answers };
  }

  /** The memories, the latest first. */
  async getAll(options: Whose & { limit?: number }): Promise<Memory[]> {
    const { limit, ...whose } = options;
    const query = queryOf({ ...named(whose), ...(limit === undefined ? {} : { limit: String(limit) }) });
    return (await this.#ask<{ results: Sent[] }>("GET", query)).results.map(memoryOf);
  }

  async get(id: string): Promise<Memory> {
    return memoryOf(await this.#ask<Sent>("GET", pathOf(id)));
  }

  /** Gives a memory another text, as if it had been told so at first. */
  async update(id: string, text: string, metadata?: Metadata): Promise<Memory> {
    return memoryOf(await this.#ask<Sent>("PUT", pathOf(id), { text, metadata }));
  }

  /** Forgets a memory, as if it had never been told. */
  async delete(id: string): Promise<void> {
    await this.#ask("DELETE", pathOf(id));
  }

  /** Forgets a user, an agent or a run, and gives the names of the sessions that are gone. */
  async deleteAll(whose: Whose): Promise<string[]> {
    return (await this.#ask<{ sessions: string[] }>("DELETE", queryOf(named(whose)))).sessions;
  }

  /** What became of a memory: how it was added and updated. */
  async history(id: string): Promise<Change[]> {
    const sent = await this.#ask<SentChange[]>("GET", `${pathOf(id)}/history`);
    return sent.map((one) => ({
      memoryId: one.memory_id,
      event: one.event,
      oldMemory: one.old_memory,
      newMemory: one.new_memory,
      createdAt: new Date(one.created_at),
    }));
  }

  async #ask<T>(method: string, path: string, body?: unknown): Promise<T> {
    const request: RequestInit = {
      method,
      headers: body === undefined ? this.#headers : { ...this.#headers, "Content-Type": "application/json" },
      signal: AbortSignal.timeout(this.#timeout),
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    };
    const call = this.#fetch;
    const answer = await call(this.#base + path, request);
    const found: unknown = await answer.json().catch(() => null);
    if (!answer.ok) {
      const error = (found as { error?: { message?: string; code?: string } } | null)?.error;
      const reason = error?.message ?? `${answer.url} answered ${answer.status}.`;
      throw new MemoryRefusedError(reason, answer.status, error?.code ?? null);
    }
    return found as T;
  }
}

interface Sent {
  id: string;
  memory: string;
  role: string;
  session: string;
  user_id: string | null;
  agent_id: string | null;
  run_id: string | null;
  metadata: Metadata;
  created_at: string;
  updated_at: string;
  score: number | null;
}

interface SentChange {
  memory_id: string;
  event: "ADD" | "UPDATE";
  old_memory: string | null;
  new_memory: string;
  created_at: string;
}

function memoryOf(sent: Sent): Memory {
  return {
    id: sent.id,
    memory: sent.memory,
    role: sent.role,
    session: sent.session,
    userId: sent.user_id,
    agentId: sent.agent_id,
    runId: sent.run_id,
    metadata: sent.metadata,
    createdAt: new Date(sent.created_at),
    updatedAt: new Date(sent.updated_at),
    score: sent.score,
  };
}

function named(whose: Whose): Record<string, string> {
  const names = { user_id: whose.userId, agent_id: whose.agentId, run_id: whose.runId };
  return Object.fromEntries(Object.entries(names).filter((pair): pair is [string, string] => pair[1] !== undefined));
}

function queryOf(names: Record<string, string>): string {
  return `?${new URLSearchParams(names)}`;
}

function pathOf(id: string): string {
  return `/${encodeURIComponent(id)}`;
}
