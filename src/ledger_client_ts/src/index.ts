// The official client of the execution ledger.
//
// `Ledger` reports and reads. `types` has the types of its answers. `webhooks.verify` checks
// deliveries.

import { verify } from "./webhooks.js";

export * from "./errors.js";
export { Follow, type FollowOptions, type Store } from "./follow.js";
export { Why } from "./groups.js";
export { Ledger, type FactType, type LedgerOptions, type NewFact } from "./ledger.js";
export type { Attributes, Filters, Options, Patience } from "./part.js";
export type { Refusal } from "./refusals.js";
export type { Flushed } from "./reporter.js";
export type { FactData } from "./routes.js";
export { currentRun, type Run as OpenRun, type RunOptions, type Tokens } from "./run.js";
export { Export, Pages, type Page } from "./transport.js";
export type * as types from "./types.js";
export type { Event, Fact, FactItem, Line, Line as Execution, LineDetail, Run } from "./types.js";

/** The signatures of deliveries. Checking them needs no ledger. */
export const webhooks = { verify };
