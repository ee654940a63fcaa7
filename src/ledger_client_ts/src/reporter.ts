// Reporting in the background: facts go into a queue, and a loop sends them in their order.

import { causeOf, Problem, problemOf } from "./errors.js";
import { done, keep, later, timer } from "./host.js";
import type { Unfinished } from "./host.js";
import { encoded, FIRST_PAUSE, LONGEST_PAUSE } from "./transport.js";
import type { Transport } from "./transport.js";
import type { FactItem } from "./types.js";

/** A fact as it was reported. */
export type Reported = Record<string, unknown>;

/** Called with a fact that will not be recorded, and the reason. */
export type Refusal = (fact: Reported, problem: Problem) => unknown;

/** Called with the outcome of one fact, or with the reason why it will not be recorded. */
export type Judged = (item: FactItem | null, problem: Problem | null) => void;

/** So much waits in memory; a further fact is refused as `queue_full`. */
const MAX_FACTS = 50_000;
const MAX_BYTES = 64 * 1024 * 1024;
/** A request has at most so much: the service takes 1,000 facts and 8 MiB. */
export const BATCH_FACTS = 1_000;
const BATCH_BYTES = 7 * 1024 * 1024;
/** The service takes no larger fact. */
const FACT_BYTES = 256 * 1024;
/** A browser sends at most so much of a page that is left. */
const LEFT_BYTES = 60 * 1024;
const ATTEMPT_MS = 10_000;
/** How long the end of a program waits for facts that are not judged, in seconds. */
const EXIT_SECONDS = 5;
/** So many failures in a row are told: one may be a connection that the service closed idle. */
const TOLD_FAILURES = 2;
/** The statuses of an item that was not judged: it is sent again. */
const HELD = [408, 429, 503];

interface Waiting {
  /** The place in the order of this ledger's facts. */
  number: number;
  /** The fact in JSON, made once, so that each attempt sends the same. */
  text: string;
  size: number;
  judged: Judged | undefined;
}

interface Result {
  fact: Waiting;
  item: FactItem | null;
  problem: Problem | null;
}

/**
 * A queue of facts and the loop that sends them.
 *
 * - `put` returns at once and never throws.
 * - Facts are sent in the order of `put`, one batch after the other, each until it is judged. A
 *   fact that is sent again has the same bytes and the same id, so it is recorded once.
 * - The loop keeps a program alive while a request is under way, and not between two attempts.
 */
export class Reporter implements Unfinished {
  readonly #transport: Transport;
  readonly #onRefused: Refusal | undefined;
  readonly #flushes = new Set<{ last: number; resolve: (isFlushed: boolean) => void }>();
  #queue: Waiting[] = [];
  #bytes = 0;
  #last = 0;
  #most = BATCH_FACTS;
  #pause = FIRST_PAUSE;
  #failures = 0;
  #isSending = false;
  #isRefusing = false;
  #isHurried = false;
  #wake = () => {};
  #stop = new AbortController();

  constructor(transport: Transport, onRefused: Refusal | undefined) {
    this.#transport = transport;
    this.#onRefused = onRefused;
  }

  /** Queue a fact. Never throws: a fact that is no JSON is told as refused. */
  report(fact: Reported): void {
    let text;
    try {
      text = encoded(fact, this.#transport.settings.source);
    } catch (error) {
      const problem = new Problem(0, "not_sendable", `The fact cannot be sent: ${causeOf(error)}`);
      this.#tell([[Object(fact) as Reported, problem]]); // callers without types give anything
      return;
    }
    this.put(text);
  }

  /** Queue a fact about a run. A payload that cannot be sent is left out: the rest counts. */
  reportRun(type: string, data: Reported, payload: string, judged?: Judged): void {
    const { source } = this.#transport.settings;
    let text = "";
    let problem = "";
    try {
      text = encoded({ type, data }, source);
      const size = sizeOf(text);
      if (size > FACT_BYTES) problem = `The fact has ${size} bytes.`;
    } catch (error) {
      problem = causeOf(error);
    }
    if (problem) {
      console.error(`The ${payload} of a run is not reported: ${problem}`);
      text = encoded({ type, data: { ...data, [payload]: undefined } }, source);
    }
    this.put(text, judged);
  }

  /** Queue a fact in JSON. Never throws, and never waits. */
  put(text: string, judged?: Judged): void {
    const size = sizeOf(text);
    const wasRefusing = this.#isRefusing;
    this.#isRefusing = this.#queue.length >= MAX_FACTS || this.#bytes + size > MAX_BYTES;
    if (this.#isRefusing) {
      const detail = "The client takes no more facts for the ledger.";
      const problem = new Problem(0, "queue_full", detail);
      judged?.(null, problem);
      this.#tell([[JSON.parse(text), problem]], !wasRefusing);
      return;
    }
    this.#queue.push({ number: ++this.#last, text, size, judged });
    this.#bytes += size;
    if (!this.#isSending) void this.#sendAll();
  }

  /** Wait until all facts put before are judged, for some seconds; give whether they are. */
  async flush(seconds: number): Promise<boolean> {
    if (!this.#queue.length) return true;
    this.#isHurried = true;
    this.#wake();
    let ending;
    const isFlushed = await new Promise<boolean>((resolve) => {
      const flush = { last: this.#last, resolve };
      this.#flushes.add(flush);
      ending = timer(seconds * 1000, () => {
        this.#flushes.delete(flush);
        resolve(false);
      });
    });
    clearTimeout(ending);
    return isFlushed;
  }

  /** The program has nothing else to do: send what waits, or tell that it is lost. */
  async finish(): Promise<void> {
    if (await this.flush(EXIT_SECONDS)) return;
    this.leave(false);
    this.#queue = [];
    this.#bytes = 0;
    this.#stop.abort();
    this.#stop = new AbortController();
  }

  /** Tell of facts that are lost. The browser sends the first of them after a page has ended. */
  leave(isPage: boolean): void {
    const count = this.#queue.length;
    if (!count) return;
    if (isPage)
      this.#send(within(this.#queue, LEFT_BYTES), true).catch(() => {}); // nobody is left
    else console.error(`${count} facts were not judged by the ledger, and are lost.`);
  }

  /** Send what waits. Never throws. */
  async #sendAll(): Promise<void> {
    this.#isSending = true;
    keep(this);
    await null; // all facts of the caller's present turn go together
    while (this.#queue.length) {
      try {
        await this.#round();
      } catch (error) {
        await this.#waitForService(error);
      }
    }
    done(this);
    this.#isSending = false;
  }

  /** Send the first facts once. */
  async #round(): Promise<void> {
    const batch = within(this.#queue.slice(0, this.#most), BATCH_BYTES);
    let results: Result[];
    let isHeld = false;
    try {
      results = judgedOf(batch, await this.#send(batch));
      isHeld = results.length < batch.length;
    } catch (error) {
      results = await this.#refused(batch, error);
    }
    if (results.length) {
      this.#pause = FIRST_PAUSE;
      if (this.#failures >= TOLD_FAILURES) console.info("The ledger takes facts again.");
      this.#failures = 0;
      this.#settle(results);
    }
    if (isHeld) await this.#rest(0);
  }

  async #send(batch: Waiting[], keepalive = false): Promise<FactItem[]> {
    const body = `[${batch.map((fact) => fact.text).join(",")}]`;
    const headers = { "content-type": "application/json" };
    const sent = { method: "POST", path: "/v1/facts/batch", headers, body, keepalive };
    return this.#transport.once(sent, ATTEMPT_MS, this.#stop.signal, async (answer) => {
      return ((await answer.json()) as { data: FactItem[] }).data;
    });
  }

  /** The results of an answer that refuses a whole request; none if the facts are sent again. */
  async #refused(batch: Waiting[], error: unknown): Promise<Result[]> {
    const refusal = error instanceof Problem ? error : null;
    const all = batch.map((fact) => ({ fact, item: null, problem: refusal }));
    switch (refusal?.status) {
      case 401:
      case 403:
        return all;
      case 400:
      case 413:
      case 422: // half of the facts, to find the one that is at fault
        this.#most = batch.length === 1 ? BATCH_FACTS : batch.length >> 1;
        return batch.length === 1 ? all : [];
      default:
        await this.#waitForService(error, (refusal?.retryAfter ?? 0) * 1000);
        return [];
    }
  }

  /** Rest; the console tells once that facts wait. */
  async #waitForService(error: unknown, asked = 0): Promise<void> {
    this.#failures += 1;
    if (this.#failures === TOLD_FAILURES) {
      const count = this.#queue.length;
      console.warn(`The ledger takes no facts, and ${count} wait: ${(error as Error).message}`);
    }
    await this.#rest(asked);
  }

  /** Wait until the next attempt; a flush or the end of the program ends the first pause. */
  async #rest(asked: number): Promise<void> {
    const ms = Math.max(asked, this.#pause * (0.5 + Math.random() / 2));
    this.#pause = Math.min(this.#pause * 2, LONGEST_PAUSE);
    if (!this.#isHurried) {
      await new Promise<void>((resolve) => {
        const cancel = later(ms, resolve);
        this.#wake = () => (cancel(), resolve());
      });
    }
    this.#isHurried = false;
  }

  /** Tell the outcomes, then those who wait for them. */
  #settle(results: Result[]): void {
    const settled = new Set(results.map(({ fact }) => fact));
    this.#queue = this.#queue.filter((fact) => !settled.has(fact));
    results.forEach(({ fact }) => (this.#bytes -= fact.size));
    for (const { fact, item, problem } of results) fact.judged?.(item, problem);
    this.#tell(results.flatMap(({ fact, problem }) => (problem ? [[fact.text, problem]] : [])));
    const next = this.#queue[0]?.number ?? Infinity;
    for (const flush of this.#flushes) {
      if (next <= flush.last) continue;
      this.#flushes.delete(flush);
      flush.resolve(true);
    }
  }

  /**
   * Tell of facts that will not be recorded. Never throws.
   *
   * The console names the first fact of each reason: a thousand at once would fill it.
   */
  #tell(refused: [Reported | string, Problem][], isLogged = true): void {
    const counts = new Map<string | null, number>();
    for (const [, { code }] of refused) counts.set(code, (counts.get(code) ?? 0) + 1);
    for (const [told, problem] of refused) {
      const fact: Reported = typeof told === "string" ? JSON.parse(told) : told;
      const alike = counts.get(problem.code);
      counts.delete(problem.code);
      const more = alike && alike > 1 ? ` (${alike - 1} more were refused likewise)` : "";
      void this.#told(fact, problem, isLogged && alike ? more : null);
    }
  }

  async #told(fact: Reported, problem: Problem, more: string | null): Promise<void> {
    try {
      if (more !== null) {
        const about = String(fact.subject ?? fact.id);
        const told = `${problem.message}${more}`;
        console.error(`The ledger has refused ${String(fact.type)} about ${about}: ${told}`);
      }
      await this.#onRefused?.(fact, problem);
    } catch (error) {
      console.error("A refusal could not be told.", error);
    }
  }
}

function sizeOf(text: string): number {
  return new TextEncoder().encode(text).length;
}

/** The first facts that fit into one request. */
function within(facts: Waiting[], bytes: number): Waiting[] {
  let size = 0;
  const end = facts.findIndex((fact, at) => (size += fact.size + 1) > bytes && at > 0);
  return end < 0 ? facts : facts.slice(0, end);
}

/** The facts of a batch that the service has judged. */
function judgedOf(batch: Waiting[], items: FactItem[]): Result[] {
  if (items.length !== batch.length) throw new Error("The answer is not about these facts.");
  return batch.flatMap((fact, at) => {
    const item = items[at] as FactItem;
    const problem = item.error && problemOf(item.error.status, item.error);
    return problem && HELD.includes(problem.status) ? [] : [{ fact, item, problem }];
  });
}
