// Reporting in the background: facts go into a queue, and a loop sends them in order.

import { causeOf, Problem, problemOf } from "./errors.js";
import { done, keep, later, timer } from "./host.js";
import type { Unfinished } from "./host.js";
import { Refusals } from "./refusals.js";
import type { Refusal, Reported } from "./refusals.js";
import { batchOf, encoded, FIRST_PAUSE, LONGEST_PAUSE } from "./transport.js";
import type { Transport } from "./transport.js";
import type { FactItem } from "./types.js";

/** Called with the outcome of a fact, or with the reason why it will not be recorded. */
export type Judged = (item: FactItem | null, problem: Problem | null) => void;

/** The limits of facts in memory. A further fact is refused as `queue_full`. */
const MAX_FACTS = 50_000;
const MAX_BYTES = 64 * 1024 * 1024;
/** The most facts and bytes of a request. The service takes 1,000 facts and 8 MiB. */
export const BATCH_FACTS = 1_000;
const BATCH_BYTES = 7 * 1024 * 1024;
/** The largest fact that the service takes. */
const FACT_BYTES = 256 * 1024;
/** The most bytes that a browser sends after the user leaves a page. */
const LEFT_BYTES = 60 * 1024;
const ATTEMPT_MS = 10_000;
/** How long the end of a program waits for outcomes, in seconds. */
const EXIT_SECONDS = 5;
/** After how many failures in a row the console has a line. One may be a closed idle connection. */
const TOLD_FAILURES = 2;
/** The statuses of an item that has no outcome: it is sent again. */
const HELD = [408, 429, 503];

/** The outcomes of reported facts. */
export interface Flushed {
  /** Facts recorded since the last flush, including duplicates. */
  readonly recorded: number;
  /** Facts refused since the last flush, by the ledger or by the client. */
  readonly refused: number;
  /** Facts reported before the flush that have no outcome yet. */
  readonly waiting: number;
  /** True if no fact was refused and none waits. */
  readonly ok: boolean;
}

const DONE = Promise.resolve();
const OCTETS = new TextEncoder();

interface Waiting {
  /** The fact's number in this ledger, in order. */
  number: number;
  /** The fact as JSON. It is encoded once, so that each attempt sends the same bytes. */
  text: string;
  size: number;
  judged: Judged | undefined;
}

/** A fact that waits for room in the queue. */
interface Offer {
  fact: Waiting;
  /** Ends the caller's wait. */
  resolve: () => void;
}

interface Result {
  fact: Waiting;
  item: FactItem | null;
  problem: Problem | null;
}

/**
 * A queue of facts and the loop that sends them.
 *
 * - `put` returns at once and never throws. A fact beyond the limits of memory waits for room if
 *   the caller does; else it is refused.
 * - A `flush` counts the outcomes since the last one that had returned before it began.
 * - Facts are sent in the order of `put`, batch after batch, until each has an outcome. A repeated
 *   fact has the same bytes and the same id, so it is recorded once.
 * - The loop keeps a program alive during a request, but not between two attempts.
 */
export class Reporter implements Unfinished {
  readonly #transport: Transport;
  readonly #refusals: Refusals;
  readonly #flushes = new Set<{ last: number; resolve: () => void }>();
  readonly #offers = new Set<Offer>();
  #queue: Waiting[] = [];
  #bytes = 0;
  #recorded = 0;
  #refused = 0;
  /** The recorded and the refused facts when the last flush returned. */
  #counted: readonly [number, number] = [0, 0];
  #last = 0;
  #most = BATCH_FACTS;
  #pause = FIRST_PAUSE;
  #failures = 0;
  #isSending = false;
  #isHurried = false;
  #wake = () => {};
  #stop = new AbortController();

  constructor(transport: Transport, onRefused: Refusal | undefined) {
    this.#transport = transport;
    this.#refusals = new Refusals(onRefused);
  }

  /** The number of facts that have no outcome. */
  get waiting(): number {
    return this.#queue.length + this.#offers.size;
  }

  /** The number of facts that were refused. */
  get refused(): number {
    return this.#refused;
  }

  /**
   * Queue a fact. Never throws; a fact that is no JSON is refused.
   *
   * The promise resolves when the fact is queued or refused, and is never rejected.
   */
  report(fact: Reported, wait: boolean | number | undefined): Promise<void> {
    let text;
    try {
      text = encoded(fact, this.#transport.settings.source);
    } catch (error) {
      const problem = new Problem(0, "not_sendable", `The fact cannot be sent: ${causeOf(error)}`);
      this.#refused += 1;
      this.#refusals.tell(Object(fact) as Reported, problem); // untyped callers pass any value
      return DONE;
    }
    return this.put(text, undefined, wait);
  }

  /** Queue a fact about a run. If its payload cannot be sent, queue the rest. */
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
    void this.put(text, judged);
  }

  /**
   * Queue a fact in JSON. Never throws.
   *
   * The promise resolves at once if there is room, or if the caller does not wait for it.
   */
  put(text: string, judged?: Judged, wait: boolean | number = false): Promise<void> {
    const fact = { number: ++this.#last, text, size: sizeOf(text), judged };
    if (!this.#offers.size && this.#takes(fact)) return DONE;
    const seconds = wait === true ? Infinity : Number(wait);
    if (!seconds || fact.size > MAX_BYTES || this.#refusals.areToldHere) {
      this.#refuse(fact);
      return DONE;
    }
    return new Promise<void>((resolve) => {
      const ending = timer(seconds * 1000, () => {
        this.#offers.delete(offer);
        this.#refuse(fact);
        this.#release();
        resolve();
      });
      const offer = { fact, resolve: () => (clearTimeout(ending), resolve()) };
      this.#offers.add(offer);
    });
  }

  /** Queue a fact, if there is room. */
  #takes(fact: Waiting): boolean {
    if (this.#queue.length >= MAX_FACTS || this.#bytes + fact.size > MAX_BYTES) return false;
    this.#queue.push(fact);
    this.#bytes += fact.size;
    if (!this.#isSending) void this.#sendAll();
    return true;
  }

  #refuse({ text, judged }: Waiting): void {
    const detail = "The client takes no more facts for the ledger.";
    const problem = new Problem(0, "queue_full", detail);
    this.#refused += 1;
    judged?.(null, problem);
    this.#refusals.tell(JSON.parse(text) as Reported, problem);
  }

  /**
   * Wait until all facts put before have an outcome, for some seconds, and count the outcomes.
   *
   * Within `onRefused` it waits for nothing.
   */
  async flush(seconds: number): Promise<Flushed> {
    const last = this.#last;
    const [recordedBefore, refusedBefore] = this.#counted;
    if (!this.#refusals.areToldHere) await this.#judged(last, seconds);
    this.#counted = [this.#recorded, this.#refused];
    const recorded = this.#recorded - recordedBefore;
    const refused = this.#refused - refusedBefore;
    const offered = [...this.#offers].map(({ fact }) => fact);
    const waiting = [...this.#queue, ...offered].filter(({ number }) => number <= last).length;
    return { recorded, refused, waiting, ok: !refused && !waiting };
  }

  /** Wait until all facts up to a number have an outcome, for some seconds. */
  async #judged(last: number, seconds: number): Promise<void> {
    if (!this.waiting) return;
    this.#isHurried = true;
    this.#wake();
    await new Promise<void>((resolve) => {
      const ending = timer(seconds * 1000, () => {
        this.#flushes.delete(flush);
        resolve();
      });
      const flush = { last, resolve: () => (clearTimeout(ending), resolve()) };
      this.#flushes.add(flush);
    });
  }

  /** When the program has nothing else to do: send the facts that wait, or report them as lost. */
  async finish(): Promise<void> {
    await this.#judged(this.#last, EXIT_SECONDS);
    if (!this.waiting) return;
    this.leave(false);
    this.#queue = [];
    this.#bytes = 0;
    this.#stop.abort();
    this.#stop = new AbortController();
  }

  /** Report facts that are lost. The browser sends the first of them after the page has ended. */
  leave(isPage: boolean): void {
    const count = this.waiting;
    if (!count) return;
    if (isPage)
      this.#send(within(this.#queue, LEFT_BYTES), true).catch(() => {}); // nobody is left
    else console.error(`${count} facts were not judged by the ledger, and are lost.`);
  }

  /** Send the facts that wait. Never throws. */
  async #sendAll(): Promise<void> {
    this.#isSending = true;
    keep(this);
    await null; // facts of the same turn of the event loop go together
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
      results = await this.#send(batch);
      isHeld = results.length < batch.length;
    } catch (error) {
      results = await this.#unjudged(batch, error);
    }
    if (results.length) {
      this.#pause = FIRST_PAUSE;
      if (this.#failures >= TOLD_FAILURES) console.info("The ledger takes facts again.");
      this.#failures = 0;
      this.#settle(results);
    }
    if (isHeld) await this.#rest(0);
  }

  /** Send facts once, and return the results of those with an outcome. */
  async #send(batch: Waiting[], keepalive = false): Promise<Result[]> {
    const sent = { ...batchOf(batch.map(({ text }) => text)), keepalive };
    return this.#transport.once(sent, ATTEMPT_MS, this.#stop.signal, async (answer) => {
      const items = await this.#transport.outcomes(answer, batch.length);
      return judgedOf(batch, items, answer.headers.get("x-request-id"));
    });
  }

  /** The results of an answer that refuses a whole request; empty if the facts are sent again. */
  async #unjudged(batch: Waiting[], error: unknown): Promise<Result[]> {
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

  /** Wait. The console says once that facts wait. */
  async #waitForService(error: unknown, asked = 0): Promise<void> {
    this.#failures += 1;
    if (this.#failures === TOLD_FAILURES) {
      const count = this.#queue.length;
      console.warn(`The ledger takes no facts, and ${count} wait: ${(error as Error).message}`);
    }
    await this.#rest(asked);
  }

  /** Wait until the next attempt. A flush or the end of the program ends the first wait. */
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

  /** Remove facts from the queue, which makes room for others, and report their outcomes. */
  #settle(results: Result[]): void {
    const settled = new Set(results.map(({ fact }) => fact));
    this.#queue = this.#queue.filter((fact) => !settled.has(fact));
    results.forEach(({ fact }) => (this.#bytes -= fact.size));
    for (const offer of this.#offers) {
      if (!this.#takes(offer.fact)) break;
      this.#offers.delete(offer);
      offer.resolve();
    }
    for (const { fact, item, problem } of results) {
      if (problem) this.#refused += 1;
      else this.#recorded += 1;
      fact.judged?.(item, problem);
    }
    for (const { fact, problem } of results) {
      if (problem) this.#refusals.tell(JSON.parse(fact.text) as Reported, problem);
    }
    this.#release();
  }

  /** Resolve the flushes whose facts all have an outcome. */
  #release(): void {
    const [offer] = this.#offers;
    const next = this.#queue[0]?.number ?? offer?.fact.number ?? Infinity;
    for (const flush of this.#flushes) {
      if (next <= flush.last) continue;
      this.#flushes.delete(flush);
      flush.resolve();
    }
  }
}

function sizeOf(text: string): number {
  return OCTETS.encode(text).length;
}

/** The first facts that fit into one request. */
function within(facts: Waiting[], bytes: number): Waiting[] {
  let size = 0;
  const end = facts.findIndex((fact, at) => (size += fact.size + 1) > bytes && at > 0);
  return end < 0 ? facts : facts.slice(0, end);
}

/** The facts of a batch that have an outcome. */
function judgedOf(batch: Waiting[], items: FactItem[], request_id: string | null): Result[] {
  return batch.flatMap((fact, at) => {
    const item = items[at] as FactItem;
    const problem = item.error && problemOf(item.error.status, { request_id, ...item.error });
    return problem && HELD.includes(problem.status) ? [] : [{ fact, item, problem }];
  });
}
