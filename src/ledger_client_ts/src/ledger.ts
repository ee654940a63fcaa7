// The client: routes by group, reporting in the background, and runs.

import { Conflict, Forbidden, NotConfigured } from "./errors.js";
import { Compare, Events, Lines, Usage, Webhooks } from "./groups.js";
import { program, variable } from "./host.js";
import type { Attributes, Patience } from "./part.js";
import type { Refusal, Reported } from "./refusals.js";
import { BATCH_FACTS, Reporter } from "./reporter.js";
import type { Flushed } from "./reporter.js";
import {
  Alerts,
  Audit,
  Directory,
  Keys,
  Proofs,
  Runs,
  Service,
  Sessions,
  Statements,
  Traces,
  Watches,
} from "./routes.js";
import type { FactData } from "./routes.js";
import { Run } from "./run.js";
import type { RunOptions } from "./run.js";
import { encoded, Transport } from "./transport.js";
import type { Options, Settings } from "./transport.js";
import type { Credential, Fact, FactItem } from "./types.js";

/** The types of facts. */
export type FactType = keyof FactData;

type Given = "specversion" | "id" | "source";

/** A fact as a CloudEvent, without the id, source and time that the client adds. */
export type NewFact = Fact extends infer F
  ? F extends Fact & { type: FactType }
    ? Omit<F, Given> & Partial<Pick<F, Given>>
    : never
  : never;

/** Where the ledger is, and who reports. */
export interface LedgerOptions {
  /** By default `ELK_URL`. */
  url?: string | undefined;
  /** By default `ELK_TOKEN`. */
  token?: string | undefined;
  /** The name of the reporting program; by default `ELK_SOURCE`, else `/` and its file's name. */
  source?: string | undefined;
  /** The time of a call with all its attempts, in seconds. By default 30. */
  timeout?: number | undefined;
  /** Called with each reported fact that the ledger refuses, and the reason. */
  onRefused?: Refusal | undefined;
}

/** A client of the execution ledger. The constructor throws NotConfigured. */
export class Ledger {
  readonly lines: Lines;
  readonly runs: Runs;
  readonly traces: Traces;
  readonly usage: Usage;
  readonly compare: Compare;
  readonly statements: Statements;
  readonly watches: Watches;
  readonly alerts: Alerts;
  readonly events: Events;
  readonly webhooks: Webhooks;
  readonly audit: Audit;
  readonly keys: Keys;
  readonly sessions: Sessions;
  readonly directory: Directory;
  readonly proofs: Proofs;
  readonly service: Service;
  readonly #transport: Transport;
  readonly #reporter: Reporter;

  constructor(options: LedgerOptions = {}) {
    const transport = new Transport(settingsOf(options));
    this.#transport = transport;
    this.#reporter = new Reporter(transport, options.onRefused);
    this.lines = new Lines(transport);
    this.runs = new Runs(transport);
    this.traces = new Traces(transport);
    this.usage = new Usage(transport);
    this.compare = new Compare(transport);
    this.statements = new Statements(transport);
    this.watches = new Watches(transport);
    this.alerts = new Alerts(transport);
    this.events = new Events(transport);
    this.webhooks = new Webhooks(transport);
    this.audit = new Audit(transport);
    this.keys = new Keys(transport);
    this.sessions = new Sessions(transport);
    this.directory = new Directory(transport);
    this.proofs = new Proofs(transport);
    this.service = new Service(transport);
  }

  /**
   * Report a fact in the background.
   *
   * Returns at once and never throws. If a fact is refused or cannot be sent, `onRefused` and the
   * console get it. A fact with an `id` of your own is recorded once, however often you report it.
   * Without its `time`, it happened when it arrives. A process that is killed loses at most the
   * facts that `flush` had not confirmed.
   *
   * If too many facts wait already, the fact is refused as `queue_full`. With `wait` it waits for
   * room instead: for a number of seconds, or, if true, without limit. The promise resolves when
   * the fact is queued or refused, and is never rejected.
   */
  report<T extends FactType>(
    type: T,
    subject: string | null,
    data: FactData[T] | undefined,
    attributes: Attributes & Patience,
  ): Promise<void>;
  report<T extends FactType>(
    type: T,
    subject: string | null,
    data?: FactData[T],
    attributes?: Attributes,
  ): void;
  report(fact: NewFact, patience: Patience): Promise<void>;
  report(fact: NewFact): void;
  report(
    fact: string | object,
    subject?: string | Patience | null,
    data: object = {},
    attributes: Attributes & Partial<Patience> = {},
  ): Promise<void> {
    if (typeof fact !== "string") {
      return this.#reporter.report(fact as Reported, (Object(subject) as Patience).wait);
    }
    const { wait, ...others } = Object(attributes) as Attributes & Partial<Patience>;
    return this.#reporter.report({ type: fact, subject, data, ...others }, wait);
  }

  /**
   * Wait for at most so many seconds until all facts reported so far have an outcome.
   *
   * Returns the numbers of facts that were recorded and refused since the last flush, and of those
   * that still wait. Its `ok` is true if no fact was refused and none waits.
   */
  flush(seconds = 10): Promise<Flushed> {
    return this.#reporter.flush(seconds);
  }

  /** The number of reported facts that have no outcome yet. */
  get waiting(): number {
    return this.#reporter.waiting;
  }

  /** The number of facts that were refused since the client was made. */
  get refused(): number {
    return this.#reporter.refused;
  }

  /**
   * Check, before a program starts, that it may report, and that it may report about a line.
   *
   * Sends one request, and returns the credential. Throws:
   *
   * - Unauthorized for a token that is unknown, revoked or expired
   * - Forbidden for a credential without `write`
   * - NotFound for a line that is unknown or of another tenant
   * - Conflict for a closed line, and Invalid for a text that is no id of a line
   * - NotReachable without an answer, and UnexpectedAnswer if something else than a ledger answers
   */
  async check(line?: string | null, options: Options = {}): Promise<Credential> {
    const credential = await this.service.credential(
      line === undefined || line === null ? {} : { service_line_id: line },
      options,
    );
    if (!credential.permissions.some((each) => each === "write" || each === "admin")) {
      throw new Forbidden(403, "forbidden", "The credential lacks the permission write.");
    }
    if (credential.service_line?.state === "closed") {
      throw new Conflict(409, "invalid_state", "The line is closed.");
    }
    return credential;
  }

  /** Send CloudEvents now, in order, and return the outcome of each. Throws LedgerError. */
  async send(facts: readonly NewFact[], options: Options = {}): Promise<FactItem[]> {
    const items: FactItem[] = [];
    const texts = facts.map((fact) => encoded(fact, this.#transport.settings.source));
    for (let first = 0; first < texts.length; first += BATCH_FACTS) {
      const batch = texts.slice(first, first + BATCH_FACTS);
      items.push(...(await this.#transport.facts(batch, options.signal)));
    }
    return items;
  }

  /**
   * Call a function as a run of a line.
   *
   * Its value and its error pass unchanged, even if the ledger is not reachable. The run completes
   * when the function returns. It fails with the name of an error that leaves the function; an
   * AbortError cancels it. Runs that begin within are its children: in Node automatically, in
   * browsers if they name it as their `parent`.
   */
  run<T>(line: string, work: (run: Run) => Promise<T> | T): Promise<T>;
  run<T>(line: string, options: RunOptions, work: (run: Run) => Promise<T> | T): Promise<T>;
  async run<T>(
    line: string,
    options: RunOptions | ((run: Run) => Promise<T> | T),
    work?: (run: Run) => Promise<T> | T,
  ): Promise<T> {
    const [plan, performed] = typeof options === "function" ? [{}, options] : [options ?? {}, work];
    if (!performed) throw new TypeError("ledger.run needs a function");
    return new Run(this.#reporter, this.#transport, plan).perform(line, performed);
  }
}

/** The given settings, else those of the environment. */
function settingsOf(options: LedgerOptions): Settings {
  const url = options.url || variable("ELK_URL");
  const token = options.token || variable("ELK_TOKEN");
  if (!url || !token) {
    throw new NotConfigured("Give the ledger's url and a token, or set ELK_URL and ELK_TOKEN.");
  }
  const parsed = URL.canParse(url) ? new URL(url) : null;
  if (!/^https?:$/.test(parsed?.protocol ?? "") || parsed?.username || parsed?.password) {
    throw new NotConfigured("The url must be http://… or https://…, without user or password.");
  }
  if (!/^[\x21-\x7e]+$/.test(token))
    throw new NotConfigured("The token has a space or a line end.");
  const source = options.source || variable("ELK_SOURCE") || program();
  const settings = { url: url.replace(/\/+$/, ""), source, timeout: options.timeout ?? 30, token };
  return Object.defineProperty(settings, "token", { enumerable: false }); // no log shows it
}
