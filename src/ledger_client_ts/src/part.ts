// The base class of the groups of routes, and the types of their arguments.

import type { InstantName } from "./routes.js";
import type { Options, Transport } from "./transport.js";

export type { Options } from "./transport.js";

/** The filters of a route. An instant may also be a `Date`. */
export type Filters<Q> = {
  [K in keyof Q]: K extends InstantName
    ? Extract<Q[K], string> extends never
      ? Q[K]
      : Q[K] | Date
    : Q[K];
};

/** The attributes of a fact that a caller may give with its data. */
export interface Attributes {
  /** The fact's id at its source; by default a new one. A repeated fact needs the same id. */
  id?: string | undefined;
  /** By default the client's own. */
  source?: string | undefined;
  /** The time at which it happened, by default now. */
  time?: Date | string | undefined;
  /** The RUN id of a new run, if the reporter issues it. */
  subject?: string | undefined;
  /** `user`, `agent` or `api_key`; needs `actorid`. By default the credential. */
  actortype?: "user" | "agent" | "api_key" | undefined;
  actorid?: string | undefined;
  /** W3C Trace Context; events show its `trace_id`. */
  traceparent?: string | undefined;
}

/** How long a reported fact waits for room, if too many facts wait already. */
export interface Patience {
  /** True: without limit. A number: the seconds after which the fact is refused as `queue_full`. */
  wait: boolean | number;
}

/** The attributes of a fact that is sent now. */
export type About = Attributes & Pick<Options, "signal">;

/** A group of routes about one kind of thing. */
export class Routes {
  constructor(protected readonly transport: Transport) {}
}

/** A path with ids, each in its own segment. Throws RangeError for an impossible id. */
export function path(texts: TemplateStringsArray, ...ids: (string | number)[]): string {
  const segments = ids.map((id) => {
    if (["", ".", "..", "undefined", "null"].includes(`${id}`))
      throw new RangeError(`${id} is no id`);
    return encodeURIComponent(id);
  });
  return String.raw({ raw: texts }, ...segments);
}
