// Runs of functions: started, kept alive, and ended with the function.

import { Problem } from "./errors.js";
import { context, later, timer, unique } from "./host.js";
import type { Reported } from "./refusals.js";
import type { Judged, Reporter } from "./reporter.js";
import { outgoing } from "./transport.js";
import type { Transport } from "./transport.js";
import type { ModelTokens, TriggeredBy } from "./types.js";

/** How a function is reported. */
export interface RunOptions {
  /** The run's `external_id`, by default a new one. */
  name?: string | undefined;
  /** The name of the parent; by default the run around this one (in browsers: none). */
  parent?: string | undefined;
  /** The attempt, from 1, of a job that is repeated under its own name. */
  attempt?: number | undefined;
  /**
   * Seconds, 5 to 604,800. The ledger fails the run after so long without a heartbeat. The client
   * sends the heartbeats.
   */
  lease?: number | undefined;
  input?: unknown;
  triggered_by?: TriggeredBy | undefined;
  /**
   * What happens if the start is refused, as on a paused line. By default the ledger's `onRefused`
   * gets the reason, and the function runs. With `raise` the run waits for the start, and throws
   * the Problem.
   */
  onRefused?: "run" | "raise" | undefined;
  /** Report the text of the error that fails the run, with its name. */
  tellsErrors?: boolean | undefined;
}

/** Tokens of a model. Each call of `tokens` adds to the earlier ones. */
export type Tokens = Partial<Omit<ModelTokens, "model">> & { model?: string | undefined };

type Part = Exclude<keyof ModelTokens, "model">;

const PARTS: readonly Part[] = ["input", "output", "cache_read", "cache_write", "reasoning"];
/** The model of tokens without a model, if other tokens have one. */
const UNSPECIFIED = "unspecified";
const MAX_MODELS = 20;
const MAX_NAME = 200;
const MAX_MESSAGE = 10_000;
/** A lease is renewed after a third of its time, so two heartbeats may be late or lost. */
const LEASE_PART = 3;
/** The pause after a failed heartbeat, and until the run's id is known. */
const SOON_MS = 2_000;
const HEARTBEAT_MS = 10_000;

const current = context<Run>();

/** The innermost open run of the calling code. In browsers there is none. */
export function currentRun(): Run | undefined {
  return current.get();
}

/** A run between its start and its end. Errors of reporting only go to the console. */
export class Run {
  /** The run's `external_id`. */
  readonly name: string;
  /** The RUN id, once the ledger has recorded the start. */
  id: string | null = null;
  /** Why the ledger refused the start, once it has. */
  refusal: Problem | null = null;
  readonly #reporter: Reporter;
  readonly #transport: Transport;
  readonly #options: RunOptions;
  #output: { output?: unknown } = {};
  #tokens: number | undefined;
  readonly #models = new Map<string, Partial<Record<Part, number>>>();
  #stopLease = () => {};

  constructor(reporter: Reporter, transport: Transport, options: RunOptions) {
    this.#reporter = reporter;
    this.#transport = transport;
    this.#options = options;
    this.name = options.name ?? unique();
  }

  /** Add tokens: a number, or those of a model. */
  tokens(given: number | Tokens): void {
    guarded(`The tokens of the run ${this.name} could not be counted.`, () => {
      const { model, ...told } = (typeof given === "number" ? { input: given } : given) as Tokens;
      const parts: Partial<Record<Part, number>> = {};
      for (const [part, count] of Object.entries(told)) {
        if (count === undefined || count === null) continue;
        if (!PARTS.includes(part as Part) || !Number.isSafeInteger(count) || count < 0) {
          throw new RangeError(`no tokens: ${part} ${count}`);
        }
        parts[part as Part] = count;
      }
      if (model === undefined && !this.#models.size) {
        this.#tokens = (this.#tokens ?? 0) + (parts.input ?? 0) + (parts.output ?? 0);
        return;
      }
      if (this.#tokens !== undefined) this.#models.set(UNSPECIFIED, { input: this.#tokens });
      this.#tokens = undefined;
      const isKnown = this.#models.has(model ?? "") || this.#models.size < MAX_MODELS - 1;
      const key = (isKnown && model) || UNSPECIFIED;
      const row = this.#models.get(key) ?? { input: 0 };
      this.#models.set(key, row);
      for (const part of PARTS) {
        if (parts[part] !== undefined) row[part] = (row[part] ?? 0) + parts[part];
      }
    });
  }

  /** Set the run's output to any JSON value. The last call counts. */
  output(value: unknown): void {
    this.#output = { output: value };
  }

  /** Call a function as this run. Its value and its error pass unchanged. */
  async perform<T>(line: string, work: (run: Run) => Promise<T> | T): Promise<T> {
    const judged = this.#begin(line);
    if (this.#options.onRefused === "raise") {
      await Promise.race([judged, this.#patience()]);
      this.#stopPatience();
      if (this.refusal) {
        this.#stopLease();
        throw this.refusal;
      }
    }
    try {
      const value = await current.run(this, () => work(this));
      this.#end("run.completed", this.#output);
      return value;
    } catch (error) {
      this.#end(...endingOf(error, this.#options.tellsErrors ?? false, this.#output));
      throw error;
    }
  }

  #stopPatience = () => {};

  #patience(): Promise<void> {
    return new Promise((resolve) => {
      const ending = timer(this.#transport.settings.timeout * 1000, resolve);
      this.#stopPatience = () => clearTimeout(ending);
    });
  }

  /** Report the start, and resolve once it has an outcome. */
  #begin(line: string): Promise<void> {
    const { parent, attempt, lease, input, triggered_by } = this.#options;
    const data: Reported = { service_line_id: line, external_id: this.name };
    Object.assign(data, { attempt, input, triggered_by, lease_seconds: lease });
    data.parent_external_id = parent ?? currentRun()?.name;
    return new Promise((resolve) => {
      this.#report("run.started", data, "input", (item, problem) => {
        this.id = item?.subject ?? null;
        this.refusal = problem;
        resolve();
      });
      if (lease !== undefined)
        this.#renewIn((lease * 1000) / LEASE_PART, (lease * 1000) / LEASE_PART);
    });
  }

  #end(type: string, data: Reported): void {
    this.#stopLease();
    if (this.refusal) return;
    const usage = [...this.#models].map(([model, parts]) => usageOf(model, parts));
    const { attempt } = this.#options;
    const all = { ...data, external_id: this.name, attempt, tokens_used: this.#tokens };
    this.#report(type, usage.length ? { ...all, token_usage: usage } : all, "output");
  }

  #report(type: string, data: Reported, payload: string, judged?: Judged): void {
    guarded(`The run ${this.name} could not be reported.`, () => {
      this.#reporter.reportRun(type, data, payload, judged);
    });
  }

  /** Renew the lease after some milliseconds, and from then on. */
  #renewIn(ms: number, interval: number): void {
    let isOver = false;
    const cancel = later(ms, async () => {
      const next = await this.#renewed(Math.min(interval, HEARTBEAT_MS));
      if (next !== "over" && !isOver) {
        this.#renewIn(next === "renewed" ? interval : Math.min(interval, SOON_MS), interval);
      }
    });
    this.#stopLease = () => ((isOver = true), cancel());
  }

  async #renewed(ms: number): Promise<"renewed" | "lost" | "over"> {
    if (this.refusal) return "over";
    if (this.id === null) return "lost";
    const sent = outgoing("POST", `/v1/runs/${this.id}/heartbeat`, undefined, {});
    try {
      await this.#transport.once(sent, ms, undefined, (answer) => this.#transport.empty(answer));
      return "renewed";
    } catch (error) {
      // The run has ended, or has no lease.
      return error instanceof Problem && [404, 409].includes(error.status) ? "over" : "lost";
    }
  }
}

/** The type and the data of the end that an error means. */
function endingOf(error: unknown, tellsErrors: boolean, output: Reported): [string, Reported] {
  const { name, message } = guarded("", () => {
    const { name, message } = error as Error;
    return { name: printable(name) || typeof error, message: String(message ?? error) };
  }) ?? { name: "unknown", message: "" };
  if (name === "AbortError") return ["run.cancelled", { reason: name }];
  const told = tellsErrors ? { message: message.slice(0, MAX_MESSAGE) } : {};
  return ["run.failed", { ...output, error: { code: name, ...told } }];
}

/** The tokens of a model. A part above its whole, which would be refused, is left out. */
function usageOf(model: string, parts: Partial<Record<Part, number>>): object {
  const { cache_read = 0, cache_write = 0, reasoning = 0, ...row } = parts;
  const hasCache = cache_read + cache_write <= (row.input ?? 0);
  const isReasoned = reasoning <= (row.output ?? 0);
  return {
    model: printable(model) || UNSPECIFIED,
    ...row,
    ...(hasCache ? { cache_read: parts.cache_read, cache_write: parts.cache_write } : {}),
    ...(isReasoned ? { reasoning: parts.reasoning } : {}),
  };
}

function printable(text: unknown): string {
  return String(text ?? "")
    .replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "")
    .slice(0, MAX_NAME);
}

/** The value of a function. Its error only goes to the console. */
function guarded<T>(told: string, work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    if (told) console.error(told, error);
    return undefined;
  }
}
