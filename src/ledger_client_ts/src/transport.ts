// Sending: requests with their attempts, pages, and answers that come in pieces.

import { causeOf, LedgerError, NotReachable, Problem, problemOf } from "./errors.js";
import { AGENT, timer, unique } from "./host.js";
import type { Meta } from "./types.js";

/** The service, and the credential for it. */
export interface Settings {
  readonly url: string;
  readonly source: string;
  /** The time of a call with all its attempts, in seconds. */
  readonly timeout: number;
  /** Not enumerable, so that no log shows it. */
  readonly token: string;
}

/** Options of a call, beside the fields of the API. */
export interface Options {
  /** Ends the call; it then throws the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Of a command: the same key twice means one command. By default a new one. */
  idempotencyKey?: string | undefined;
  /** Of a read: the position of the log that the answer must have seen. */
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

/** The pauses between attempts double, from the first to the longest, in milliseconds. */
export const FIRST_PAUSE = 250;
export const LONGEST_PAUSE = 10_000;

/** Causes of failures before a request was sent. Browsers do not tell. */
const NOT_SENT = /ECONNREFUSED|ENOTFOUND|EAI_AGAIN|UND_ERR_CONNECT_TIMEOUT/;

/** The requests to one service. */
export class Transport {
  constructor(readonly settings: Settings) {}

  /** The `data` of an answer. Throws Problem or NotReachable, as all calls do. */
  async data<T>(method: string, path: string, given?: object, options: Options = {}): Promise<T> {
    return (await this.bare<{ data: T }>(method, path, given, options)).data;
  }

  /** A whole answer. */
  bare<T>(method: string, path: string, given?: object, options: Options = {}): Promise<T> {
    return this.attempt(outgoing(method, path, given, options), options.signal, json<T>);
  }

  text(method: string, path: string, given?: object, options: Options = {}): Promise<string> {
    const sent = outgoing(method, path, given, options);
    return this.attempt(sent, options.signal, (answer) => answer.text());
  }

  async bytes(method: string, path: string, given?: object, options: Options = {}) {
    const sent = outgoing(method, path, given, options);
    return new Uint8Array(await this.attempt(sent, options.signal, (each) => each.arrayBuffer()));
  }

  async nothing(method: string, path: string, given?: object, options: Options = {}) {
    await this.text(method, path, given, options);
  }

  /** The rows of a list, over all its pages. */
  pages<T>(path: string, query: object, options: Options): Pages<T> {
    return new Pages((cursor) =>
      this.bare("GET", path, cursor === null ? query : { ...query, cursor }, options),
    );
  }

  /** A file of any length. */
  export(path: string, query: object, options: Options): Export {
    return new Export(() => this.stream(outgoing("GET", path, query, options), options.signal));
  }

  /** Send a fact now, and give its outcome. */
  async fact<T>(type: string, subject: string | null, data: object, about: object): Promise<T> {
    const { signal, ...attributes } = about as Options;
    const fact = { type, ...(subject === null ? {} : { subject }), ...attributes, data };
    const body = encoded(fact, this.settings.source);
    return this.facts("/v1/facts", body, signal);
  }

  /** Send a fact, or an array of facts, in JSON. */
  async facts<T>(path: string, body: string, signal: AbortSignal | undefined): Promise<T> {
    const sent = { method: "POST", path, headers: JSON_BODY, body };
    return (await this.attempt(sent, signal, json<{ data: T }>)).data;
  }

  /** Send a request until it is answered, and read the answer. */
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
        redirect: "manual", // the token is for this service alone
      });
      if (answer.ok) return await read(answer, stop);
      refused = await answer.text();
    } catch (error) {
      if (error instanceof LedgerError) throw error;
      throw new NotReachable(`No answer from the ledger: ${causeOf(error)}`, { cause: error });
    } finally {
      clearTimeout(ending);
    }
    throw problemOf(answer.status, parsed(refused), answer.headers.get("retry-after"));
  }

  /** The pieces of a long answer; `silence` is the longest time between two, in seconds. */
  async *stream(
    sent: Outgoing,
    signal: AbortSignal | undefined,
    silence = this.settings.timeout,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const [answer, stop] = await this.attempt(sent, signal, async (...opened) => opened);
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
      stop.abort(); // closes the connection of a stream that was left
    }
  }
}

const JSON_BODY = { "content-type": "application/json" };

/** The request for a route: what is given is the query of a read, and the body of a command. */
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

/** A CloudEvent in JSON, with a source, and with an id and a time of now if it has no id.
 *
 * With an id of the caller's the fact may be made again later: with another time it would conflict
 * with the first.
 */
export function encoded(fact: object, source: string): string {
  const given = Object.entries(fact).filter(([, value]) => value !== undefined && value !== null);
  const own = { specversion: "1.0", source, ...Object.fromEntries(given) };
  return JSON.stringify("id" in own ? own : { id: unique(), time: new Date(), ...own });
}

async function json<T>(answer: Response): Promise<T> {
  const told = parsed(await answer.text());
  if (told === undefined)
    throw new LedgerError("The answer is no JSON: is this a ledger's address?");
  return told as T;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Whether the same request may be tried again: nothing happens twice, and it may succeed. */
function isPassing(failure: unknown, method: string): boolean {
  if (failure instanceof Problem) {
    if (failure.status === 503) return failure.code !== "read_only" && method !== "DELETE";
    return failure.status === 408 || failure.status === 429;
  }
  if (!(failure instanceof NotReachable)) return false;
  // A DELETE may have been done when its answer was lost, and would then be refused.
  const { cause } = (failure.cause ?? {}) as { cause?: { code?: string } };
  return method !== "DELETE" || NOT_SENT.test(cause?.code ?? "");
}

/** Whether a reader should come back later. */
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

/** The lines of a text that comes in pieces. */
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

/** The rows of a list, over all its pages: each page is asked for when its first row is. */
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
 * A file of any length: iterate over its lines, or give its `pieces` to `writeFile`.
 *
 * An export that breaks off throws NotReachable. The filter `after` continues it, where the route
 * has one.
 */
export class Export implements AsyncIterable<string> {
  /** The bytes of the file, as they come. */
  readonly pieces: () => AsyncGenerator<Uint8Array, void, undefined>;

  constructor(pieces: Export["pieces"]) {
    this.pieces = pieces;
  }

  [Symbol.asyncIterator](): AsyncGenerator<string, void, undefined> {
    return lines(this.pieces());
  }
}
