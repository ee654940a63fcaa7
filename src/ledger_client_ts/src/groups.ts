// The groups with methods of their own, beyond the routes.

import { Follow } from "./follow.js";
import type { FollowOptions } from "./follow.js";
import { path } from "./part.js";
import type { Filters, Options } from "./part.js";
import {
  CompareRoutes,
  EventRoutes,
  LineRoutes,
  SumRoutes,
  Webhooks as Endpoints,
} from "./routes.js";
import type { Pages } from "./transport.js";
import type * as types from "./types.js";
import { verify } from "./webhooks.js";

/** Why a line is in its state, and since when. As a text, it has a sentence for each reason. */
export class Why {
  constructor(
    readonly line: string,
    readonly name: string | null,
    readonly state: types.State,
    readonly since: string,
    /** The open blockers, the oldest first. */
    readonly blockers: readonly types.ReportedBlocker[],
    readonly holds: readonly types.Hold[],
    readonly health_score: number | null,
  ) {}

  toString(): string {
    const told = [`${this.line} is ${this.state} since ${minute(this.since)}.`];
    for (const { hold, until, reason } of this.holds) {
      const end = until ? ` until ${minute(until)}` : "";
      told.push(`Hold of the ${hold}${end}: ${reason ?? "no reason given"}.`);
    }
    for (const { id, cause, assignee, due_at, reason } of this.blockers) {
      const who =
        (assignee ? `, with ${assignee}` : "") + (due_at ? `, due ${minute(due_at)}` : "");
      told.push(`Blocker ${id} (${cause}${who}): ${reason ?? "no reason given"}.`);
    }
    return told.join("\n");
  }
}

function minute(instant: string): string {
  return `${instant.slice(0, 16).replace("T", " ")}Z`;
}

/**
 * Service lines: reads, the operator's commands, and facts by verb.
 *
 * A verb sends its fact at once and throws if it is refused. `ledger.report` never does.
 */
export class Lines extends LineRoutes {
  /** Why a line is in its state, and since when: now, or as known `as_of` an instant. */
  async why(
    line: string,
    query: Filters<types.ShowExecutionQuery> = {},
    options: Options = {},
  ): Promise<Why> {
    const shown = await this.get(line, query, options);
    const blockers = [...shown.blockers].sort((one, two) => (one.since < two.since ? -1 : 1));
    const { service_line_id, name, state, state_since, holds, health } = shown;
    return new Why(service_line_id, name, state, state_since, blockers, holds, health.score);
  }
}

type Sums = Filters<types.ShowUsageOfLinesQuery>;

/** Hours, runs, tokens and times across lines. */
export class Usage extends SumRoutes {
  /** The rows, grouped by `group_by`. */
  list(query: Sums = {}, options: Options = {}): Pages<types.UsageRow> {
    return this.transport.pages(path`/v1/usage`, query, options);
  }

  /** The total, and the rows of the first page. */
  async get(query: Sums = {}, options: Options = {}): Promise<types.UsageOfLines> {
    return (await this.page(query, options)).data;
  }

  /** The rows of a month such as `2026-11`, in `time_zone` (by default UTC). */
  month(month: string, query: Sums = {}, options: Options = {}): Pages<types.UsageRow> {
    const [year = 0, number = 0] = month.split("-").map(Number);
    const after = new Date(Date.UTC(year, number, 1)).toISOString().slice(0, 10);
    return this.list({ from: `${month}-01`, to: after, ...query }, options);
  }
}

type Compared = Filters<types.ShowComparisonQuery>;

/** Two instants compared. */
export class Compare extends CompareRoutes {
  /** The lines that changed between `then` and `now`. */
  list(query: Compared, options: Options = {}): Pages<types.ComparedLine> {
    return this.transport.pages(path`/v1/compare`, query, options);
  }

  /** The total, and the lines of the first page. */
  async get(query: Compared, options: Options = {}): Promise<types.ComparedLines> {
    return (await this.page(query, options)).data;
  }
}

/** Published events, in the order of the log. */
export class Events extends EventRoutes {
  /**
   * Each event since the stored position, and then each new one, without end.
   *
   * Without a stored position, the first event is the one after `after`, else the first of the log.
   * `Follow` says when a position is stored.
   */
  follow<T extends types.Event["type"] = types.Event["type"]>(
    options: FollowOptions<T> = {},
  ): Follow<Extract<types.Event, { type: T }>> {
    return new Follow(this.transport, options as FollowOptions<never>);
  }
}

/** Endpoints that events are sent to. */
export class Webhooks extends Endpoints {
  /** The event of a delivery with a valid signature: `webhooks.verify`, which needs no ledger. */
  readonly verify = verify;
}
