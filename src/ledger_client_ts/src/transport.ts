// Requests with their attempts, pages of lists, and answers that come in pieces.

import {
  causeOf,
  LedgerError,
  NotReachable,
  Problem,
  problemOf,
  UnexpectedAnswer,
} from "./errors.js";
import { AGENT, timer, unique } from "./host.js";
import type { FactItem, Meta } from "./types.js";

/** The service's address, and the credential. */
export interface Settings {
  readonly url: string;
  readonly source: string;
  /** The time of a call with all its attempts, in seconds. */
  readonly timeout: number;
  /** Not enumerable, so that no log shows it. */
  readonly token: string;
}

/** Options of a call, apart from the fields of the API. */
export interface Options {
  /** Ends the call; it then throws the signal's reason. */
  signal?: AbortSignal | undefined;
  /** For a command: the same key twice means one command. By default a new key. */
  idempotencyKey?: string | undefined;
  /** For a read: the answer must include the log up to this position. */
  minPosition?: number | undefined;
}

/** A request to the service. */
export interface Outgoing {
  method: string;
  path: string;
  headers?: Record<string, string>;
  body?: string | undefined;
  keepalive?: boolean;
}

/** The pauses between attempts double, from the first to the longest one, in milliseconds. */
export const FIRST_PAUSE = 250;
export const LONGEST_PAUSE = 10_000;

/** Causes of failures before a request was sent. Browsers do not give the cause. */
const NOT_SENT = /ECONNREFUSED|ENOTFOUND|EAI_AGAIN|UND_ERR_CONNECT_TIMEOUT/;

/** The requests to one service. */
export class Transport {
  constructor(readonly settings: Settings) {}

  /**
   * The `data` of an answer. `fields` names what it has at least, separated by spaces.
   *
   * Throws Problem, NotReachable or UnexpectedAnswer, as all calls do.
   */
  async data<T>(
    method: string,
    path: string,
    given?: object,
    options: Options = {},
    fields = "",
  ): Promise<T> {
    const sent = outgoing(method, path, given, options);
    const read = (answer: Response) => this.json<{ data: T }>(answer, hasData(fields));
    return (await this.attempt(sent, options.signal, read)).data;
  }

  /** A whole answer. */
  bare<T>(
    method: string,
    path: string,
    given?: object,
    options: Options = {},
    fields = "",
  ): Promise<T> {
    const sent = outgoing(method, path, given, options);
    const read = (answer: Response) => this.json<T>(answer, (told) => has(told, fields));
    return this.attempt(sent, options.signal, read);
  }

  text(method: string, path: string, given?: object, options: Options = {}): Promise<string> {
    const sent = outgoing(method, path, given, options);
    return this.attempt(sent, options.signal, (answer) => this.#noPage(answer).text());
  }

  async bytes(method: string, path: string, given?: object, options: Options = {}) {
    const sent = outgoing(method, path, given, options);
    const read = (answer: Response) => this.#noPage(answer).arrayBuffer();
    return new Uint8Array(await this.attempt(sent, options.signal, read));
  }

  async nothing(method: string, path: string, given?: object, options: Options = {}) {
    const sent = outgoing(method, path, given, options);
    await this.attempt(sent, options.signal, (answer) => this.empty(answer));
  }

  /** The rows of a list, over all its pages. */
  pages<T>(path: string, query: object, options: Options): Pages<T> {
    return new Pages((cursor) => {
      const sent = outgoing("GET", path, cursor === null ? query : { ...query, cursor }, options);
      return this.attempt(sent, options.signal, (answer) => this.json(answer, isPage));
    });
  }

  /** A file of any length. */
  export(path: string, query: object, options: Options): Export {
    return new Export(() => this.stream(outgoing("GET", path, query, options), options.signal));
  }

  /** Send a fact now, and return its outcome. */
  async fact<T>(type: string, subject: string | null, data: object, about: object): Promise<T> {
    const { signal, ...attributes } = about as Options;
    const fact = { type, ...(subject === null ? {} : { subject }), ...attributes, data };
    const body = encoded(fact, this.settings.source);
    const sent = { method: "POST", path: "/v1/facts", headers: JSON_BODY, body };
    const read = (answer: Response) => this.json<{ data: T }>(answer, hasData("outcome"));
    return (await this.attempt(sent, signal, read)).data;
  }

  /** Send facts in JSON now, and return the outcome of each. */
  async facts(texts: readonly string[], signal: AbortSignal | undefined): Promise<FactItem[]> {
    const read = (answer: Response) => this.outcomes(answer, texts.length);
    return this.attempt(batchOf(texts), signal, read);
  }

  /** The outcomes in the answer to some facts, in order. */
  async outcomes(answer: Response, count: number): Promise<FactItem[]> {
    const isForm = (told: unknown) => {
      const items = (Object(told) as { data?: unknown }).data;
      return Array.isArray(items) && items.length === count && items.every(isItem);
    };
    return (await this.json<{ data: FactItem[] }>(answer, isForm)).data;
  }

  /** Send a request until it has an answer, and read the answer. */
  async attempt<T>(
    sent: Outgoing,
    signal: AbortSignal | undefined,
    read: (answer: Response, stop: AbortController) => Promise<T>,
  ): Promise<T> {
    const end = performance.now() + this.settings.timeout * 1000;
    for (let pause = FIRST_PAUSE; ; pause = Math.min(pause * 2, LONGEST_PAUSE)) {
      try {
        return await this.once(sent, end - performance.now(), signal, read);
      } catch (error) {
        signal?.throwIfAborted();
        const asked = error instanceof Problem ? (error.retryAfter ?? 0) * 1000 : 0;
        const wait = Math.max(asked, pause) * (1 + Math.random() / 2);
        if (!isPassing(error, sent.method) || performance.now() + wait >= end) throw error;
        await sleep(wait, signal);
      }
    }
  }

  /** Send a request once, and read the answer within some milliseconds. */
  async once<T>(
    sent: Outgoing,
    ms: number,
    signal: AbortSignal | undefined,
    read: (answer: Response, stop: AbortController) => Promise<T>,
  ): Promise<T> {
    const { method, path, headers, body, keepalive } = sent;
    const stop = new AbortController();
    const ending = timer(ms, () => stop.abort(new Error(`None within ${ms} ms.`)));
    let answer, refused;
    try {
      answer = await fetch(this.settings.url + path, {
        method,
        headers: { ...AGENT, ...headers, authorization: `Bearer ${this.settings.token}` },
        body: body ?? null,
        keepalive: keepalive ?? false,
        signal: signal ? AbortSignal.any([signal, stop.signal]) : stop.signal,
        cache: "no-store",
        credentials: "omit",
        redirect: "manual", // the token is only for this service
      });
      if (answer.ok) return await read(answer, stop);
      refused = await answer.text();
    } catch (error) {
      if (error instanceof LedgerError) throw error;
      throw new NotReachable(`No answer from the ledger: ${causeOf(error)}`, { cause: error });
    } finally {
      clearTimeout(ending);
    }
    const told = problemIn(answer, refused);
    const { status } = answer; // 0 for a redirect in some browsers
    if (status < 400 || (told === null && [401, 403, 404].includes(status))) {
      throw this.unexpected(answer);
    }
    throw problemOf(status, told, answer.headers.get("retry-after"));
  }

  /** The JSON of an answer. Throws UnexpectedAnswer if there is none, or if it has another form. */
  async json<T>(answer: Response, isForm: (told: unknown) => boolean): Promise<T> {
    const told = parsed(await answer.text());
    if (!isForm(told)) throw this.unexpected(answer);
    return told as T;
  }

  /** Read an answer that has no body. */
  async empty(answer: Response): Promise<void> {
    if (await answer.text()) throw this.unexpected(answer);
  }

  /** The error for an answer that is not a ledger's. */
  unexpected(answer: Response): UnexpectedAnswer {
    return new UnexpectedAnswer(this.settings.url, answer.status, mediaOf(answer));
  }

  /** The answer, unless it is a page for people: no route of the API answers one. */
  #noPage(answer: Response): Response {
    if (mediaOf(answer) === "text/html") throw this.unexpected(answer);
    return answer;
  }

  /** The pieces of a long answer. `silence` is the longest time between two, in seconds. */
  async *stream(
    sent: Outgoing,
    signal: AbortSignal | undefined,
    silence = this.settings.timeout,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const [answer, stop] = await this.attempt(sent, signal, async (answer, stop) => {
      return [this.#noPage(answer), stop] as const;
    });
    const reader = answer.body?.getReader();
    try {
      while (reader) {
        const silent = timer(silence * 1000, () => stop.abort(new Error("The stream is silent.")));
        const piece = await reader.read().finally(() => clearTimeout(silent));
        if (piece.done) return;
        yield piece.value;
      }
    } catch (error) {
      signal?.throwIfAborted();
      throw new NotReachable(`The answer broke off: ${causeOf(error)}`, { cause: error });
    } finally {
      stop.abort(); // closes the connection of a stream that the caller left
    }
  }
}

const JSON_BODY = { "content-type": "application/json" };

/** The request for a route. The arguments are the query of a read, and the body of a command. */
export function outgoing(
  method: string,
  path: string,
  given: object | undefined,
  options: Options,
): Outgoing {
  if (method === "GET") {
    const { minPosition } = options;
    const least = minPosition === undefined ? [] : [["ledger-min-position", `${minPosition}`]];
    return { method, path: path + queryOf(given ?? {}), headers: Object.fromEntries(least) };
  }
  if (given === undefined) return { method, path };
  const headers = { ...JSON_BODY, "idempotency-key": options.idempotencyKey ?? unique() };
  return { method, path, headers, body: JSON.stringify(given) };
}

function queryOf(given: object): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(given)) {
    if (value !== undefined && value !== null) query.set(name, word(value));
  }
  return query.size ? `?${query}` : "";
}

function word(value: unknown): string {
  return value instanceof Date ? value.toISOString() : String(value); // a list gets commas
}

/**
 * Encode a CloudEvent as JSON, with a source. Without an id, add a new id and the present time.
 *
 * A caller's own id may be reported again later: with another time it would conflict with the first
 * report.
 */
export function encoded(fact: object, source: string): string {
  const given = Object.entries(fact).filter(([, value]) => value !== undefined && value !== null);
  const own = { specversion: "1.0", source, ...Object.fromEntries(given) };
  return JSON.stringify("id" in own ? own : { id: unique(), time: new Date(), ...own });
}

/** The request that sends facts in JSON. */
export function batchOf(texts: readonly string[]): Outgoing {
  const body = `[${texts.join(",")}]`;
  return { method: "POST", path: "/v1/facts/batch", headers: JSON_BODY, body };
}

/** Return true if a part of an answer is an object with these fields, separated by spaces. */
export function has(told: unknown, fields: string): boolean {
  return told instanceof Object && (fields.match(/\w+/g) ?? []).every((field) => field in told);
}

function hasData(fields: string): (told: unknown) => boolean {
  return (told) => has(told, "data") && has((told as { data: unknown }).data, fields);
}

/** Return true if an answer is a page of a list. */
export function isPage(told: unknown): boolean {
  const { data, meta } = Object(told) as { data?: unknown; meta?: unknown };
  const rows = Array.isArray(data) ? data : (Object(data) as { rows?: unknown }).rows;
  return Array.isArray(rows) && has(meta, "has_more cursor");
}

/** Return true if a part of an answer is the outcome of a fact. */
function isItem(item: unknown): boolean {
  const { outcome, error } = Object(item) as Partial<Record<keyof FactItem, unknown>>;
  return typeof outcome === "string" && (has(error, "status") || !error);
}

/** The problem document in an answer; null without a code or the media type of problems. */
function problemIn(answer: Response, text: string): object | null {
  const told = parsed(text);
  const isDocument = mediaOf(answer) === "application/problem+json";
  const { code } = Object(told) as { code?: unknown };
  return told instanceof Object && (isDocument || typeof code === "string") ? told : null;
}

/** The media type of an answer in lower case; null if it has none. */
function mediaOf(answer: Response): string | null {
  const [media] = (answer.headers.get("content-type") ?? "").split(";");
  return media?.trim().toLowerCase() || null;
}

/** The value of a text in JSON; undefined if it is not JSON. */
export function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Return true if a retry is safe and may succeed: nothing happens twice. */
function isPassing(failure: unknown, method: string): boolean {
  if (failure instanceof Problem) {
    if (failure.status === 503) return failure.code !== "read_only" && method !== "DELETE";
    return failure.status === 408 || failure.status === 429;
  }
  if (!(failure instanceof NotReachable)) return false;
  // If the answer to a DELETE was lost, it may have happened, and a retry would be refused.
  const { cause } = (failure.cause ?? {}) as { cause?: { code?: string } };
  return method !== "DELETE" || NOT_SENT.test(cause?.code ?? "");
}

/** Return true if a reader should try again later. */
export function isLost(failure: unknown): boolean {
  if (failure instanceof NotReachable) return true;
  return failure instanceof Problem && [408, 429, 500, 502, 503, 504].includes(failure.status);
}

/** Wait for some milliseconds. Throws the signal's reason when it is aborted. */
export async function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  signal?.throwIfAborted();
  let wake = () => {};
  await new Promise<void>((resolve) => {
    const started = timer(ms, resolve);
    wake = () => (clearTimeout(started), resolve());
    signal?.addEventListener("abort", wake);
  }).finally(() => signal?.removeEventListener("abort", wake));
  signal?.throwIfAborted();
}

/** The lines of a text that arrives in pieces. */
export async function* lines(
  pieces: AsyncIterable<Uint8Array>,
): AsyncGenerator<string, void, undefined> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const piece of pieces) {
    const found = (rest + decoder.decode(piece, { stream: true })).split("\n");
    rest = found.pop() ?? "";
    yield* found;
  }
  if (rest) yield rest;
}

/** A page of a list. */
export interface Page<T> {
  data: T[];
  meta: Meta;
}

type Asked<T> = (cursor: string | null) => Promise<{ data: T[] | { rows: T[] }; meta: Meta }>;

/** The rows of a list, over all its pages. A page is requested when its first row is needed. */
export class Pages<T> implements AsyncIterable<T> {
  readonly #page: Asked<T>;

  constructor(page: Asked<T>) {
    this.#page = page;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    for await (const page of this.pages()) yield* page.data;
  }

  /** The pages, each with its rows as `data`, and its `meta.cursor`. */
  async *pages(): AsyncGenerator<Page<T>, void, undefined> {
    let cursor: string | null = null;
    do {
      const { data, meta } = await this.#page(cursor);
      yield { data: "rows" in data ? data.rows : data, meta };
      cursor = meta.has_more ? meta.cursor : null;
    } while (cursor !== null);
  }

  /** The first row; undefined if there is none. */
  async first(): Promise<T | undefined> {
    for await (const page of this.pages()) return page.data[0];
    return undefined;
  }
}

/**
 * A file of any length: iterate over its lines, or pass its `pieces` to `writeFile`.
 *
 * An export that breaks off throws NotReachable. If the route has the filter `after`, it continues
 * the export.
 */
export class Export implements AsyncIterable<string> {
  /** The bytes of the file, as they arrive. */
  readonly pieces: () => AsyncGenerator<Uint8Array, void, undefined>;

  constructor(pieces: Export["pieces"]) {
    this.pieces = pieces;
  }

  [Symbol.asyncIterator](): AsyncGenerator<string, void, undefined> {
    return lines(this.pieces());
  }
}
