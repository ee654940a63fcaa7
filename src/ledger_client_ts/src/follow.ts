// Following the feed: pages up to the present, then the stream; after a lost connection, again.

import { UnexpectedAnswer } from "./errors.js";
import type { Filters } from "./part.js";
import { has, isLost, isPage, lines, outgoing, parsed, sleep } from "./transport.js";
import type { Transport } from "./transport.js";
import type { Event, EventPage, StreamEventsQuery } from "./types.js";

/** Stores the position of a follower: the id of the last event that was handled. */
export interface Store {
  /** The last saved position, or nothing. */
  load(): string | null | undefined | Promise<string | null | undefined>;
  /** Store a position. When the promise resolves, the event counts as handled. */
  save(cursor: string): unknown;
}

/** Where to follow from, and which events. */
export type FollowOptions<T extends Event["type"]> = Omit<Filters<StreamEventsQuery>, "type"> & {
  /** By default the position is in memory only. */
  store?: Store | undefined;
  type?: T | readonly T[] | undefined;
  /** Ends the loop, without an error. */
  signal?: AbortSignal | undefined;
};

/**
 * The service sends a comment every 15 s, so a longer silence means a lost connection. In seconds.
 */
const SILENCE = 40;
/** How long the service asks a reader of the stream to wait before it returns. */
const RETURN_MS = 2_000;
const PAGE = 100;

/**
 * The events since a stored position, and then each new one, without end.
 *
 * The position of an event is stored when the next event is requested. If a handler is interrupted,
 * its event comes again: at least once.
 *
 * The follower waits for a service that is not reachable. It throws a refusal, such as that of a
 * revoked key. It also throws UnexpectedAnswer, if something else than a ledger gives the first
 * answer.
 */
export class Follow<E extends Event> implements AsyncIterable<E> {
  /** The log's position up to which all events were handed out; null before that is known. */
  completeTo: number | null = null;
  readonly #transport: Transport;
  readonly #store: Store | undefined;
  readonly #filters: object;
  readonly #signal: AbortSignal | undefined;
  readonly #told: ((position: number) => void)[] = [];
  #after: string | undefined;
  /** True once a ledger has answered. */
  #isAnswered = false;

  constructor(transport: Transport, options: FollowOptions<E["type"]>) {
    const { store, signal, after, ...filters } = options;
    this.#transport = transport;
    this.#store = store;
    this.#signal = signal;
    this.#filters = filters;
    this.#after = after;
  }

  /**
   * Call a function with the log's position when all events up to now were handled.
   *
   * This happens first at the start, then after each lost connection. Returns this follower.
   */
  onComplete(told: (position: number) => void): this {
    this.#told.push(told);
    return this;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<E, void, undefined> {
    while (!this.#signal?.aborted) {
      try {
        yield* this.#pulled();
        yield* this.#streamed();
      } catch (error) {
        const isOther = error instanceof UnexpectedAnswer && this.#isAnswered;
        if (!isOther && !isLost(error) && error !== this.#signal?.reason) throw error;
      }
      await sleep(RETURN_MS * (0.5 + Math.random() / 2), this.#signal).catch(() => {});
    }
  }

  /** The events since the stored position, up to now. */
  async *upToNow(): AsyncGenerator<E, void, undefined> {
    try {
      yield* this.#pulled();
    } catch (error) {
      if (error !== this.#signal?.reason) throw error;
    }
  }

  async *#pulled(): AsyncGenerator<E, void, undefined> {
    this.#after = (await this.#store?.load()) || this.#after;
    for (;;) {
      const query = { ...this.#filters, limit: PAGE, after: this.#after };
      const sent = outgoing("GET", "/v1/events", query, {});
      const [page, position] = await this.#transport.attempt(sent, this.#signal, async (answer) => {
        const told = answer.headers.get("ledger-position");
        const isForm = (page: unknown) => told !== null && isPageOfEvents(page);
        return [await this.#transport.json<EventPage>(answer, isForm), Number(told)];
      });
      this.#isAnswered = true;
      for (const event of page.data) yield* this.#given(event);
      if (page.meta.has_more) continue;
      this.completeTo = position;
      this.#told.forEach((told) => told(position));
      return;
    }
  }

  /** The events that are recorded from now on, until the connection ends. */
  async *#streamed(): AsyncGenerator<E, void, undefined> {
    const sent = outgoing("GET", "/v1/events/stream", this.#filters, {});
    // Only the number in an event id counts: the pages were complete up to this position.
    sent.headers = { "last-event-id": `EVT-00-${`${this.completeTo}`.padStart(6, "0")}` };
    for await (const line of lines(this.#transport.stream(sent, this.#signal, SILENCE))) {
      if (!line.startsWith("data:") || !line.slice(5).trim()) continue;
      const event = parsed(line.slice(5)) as Event;
      if (!isEvent(event)) {
        throw new UnexpectedAnswer(this.#transport.settings.url, 200, "text/event-stream");
      }
      yield* this.#given(event);
      this.completeTo = event.position;
    }
  }

  /** Hand out an event, and store its position once it was handled. */
  async *#given(event: Event): AsyncGenerator<E, void, undefined> {
    yield event as E;
    await this.#store?.save(event.id);
    this.#after = event.id;
    this.#signal?.throwIfAborted();
  }
}

function isEvent(told: unknown): boolean {
  return has(told, "id type position payload");
}

function isPageOfEvents(told: unknown): boolean {
  return isPage(told) && (told as EventPage).data.every(isEvent);
}
