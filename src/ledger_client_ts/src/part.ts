// The base of the groups of routes, and the types of their arguments.

import type { InstantName } from "./routes.js";
import type { Options, Transport } from "./transport.js";

export type { Options } from "./transport.js";

/** The filters of a route; an instant may be a `Date` too. */
export type Filters<Q> = {
  [K in keyof Q]: K extends InstantName
    ? Extract<Q[K], string> extends never
      ? Q[K]
      : Q[K] | Date
    : Q[K];
};

/** The attributes of a fact that may be given beside its data. */
export interface Attributes {
  /** The fact's id at its source, by default a new one. A fact sent again needs the same. */
  id?: string | undefined;
  /** By default the client's own. */
  source?: string | undefined;
  /** The time at which it happened, by default now. */
  time?: Date | string | undefined;
  /** The RUN id of a new run, where the reporter issues it. */
  subject?: string | undefined;
  /** `user`, `agent` or `api_key`; with `actorid`. By default the credential. */
  actortype?: "user" | "agent" | "api_key" | undefined;
  actorid?: string | undefined;
  /** W3C Trace Context; events show its `trace_id`. */
  traceparent?: string | undefined;
}

/** How long a reported fact waits for room, where too much waits already. */
export interface Patience {
  /** True: until there is room. A number: seconds; the fact is then refused as `queue_full`. */
  wait: boolean | number;
}

/** The attributes of a fact that is sent now. */
export type About = Attributes & Pick<Options, "signal">;

/** Routes about one thing. */
export class Routes {
  constructor(protected readonly transport: Transport) {}
}

/** A path with ids in it, each within its own segment. Throws RangeError for an impossible id. */
export function path(texts: TemplateStringsArray, ...ids: (string | number)[]): string {
  const segments = ids.map((id) => {
    if (["", ".", "..", "undefined", "null"].includes(`${id}`))
      throw new RangeError(`${id} is no id`);
    return encodeURIComponent(id);
  });
  return String.raw({ raw: texts }, ...segments);
}
