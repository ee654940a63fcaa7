// Refused facts: each goes to the caller's function, and the console names the first of a code.

import type { Problem } from "./errors.js";
import { context, done, keep, later } from "./host.js";
import type { Unfinished } from "./host.js";

/** A fact as it was reported. */
export type Reported = Record<string, unknown>;

/** Called with a fact that will not be recorded, and the reason. */
export type Refusal = (fact: Reported, problem: Problem) => unknown;

/** After a line on the console, refusals of the same codes are only counted for this time. */
const LINE_MS = 60_000;

/** The client whose `onRefused` runs the calling code; null once that call has ended. */
const told = context<{ by: Refusals | null }>();

/**
 * Passes refused facts to the caller's function and the console. Never throws.
 *
 * The first refusal of each code is a line on the console at once. Later ones are counted. Their
 * number is a line a minute after the first of them, and at the end of the program.
 */
export class Refusals implements Unfinished {
  readonly #onRefused: Refusal | undefined;
  readonly #known = new Set<string>();
  #more = new Map<string, number>();
  #since = "";
  #stop = () => {};
  #depth = 0;

  constructor(onRefused: Refusal | undefined) {
    this.#onRefused = onRefused;
  }

  /**
   * True if the calling code runs within `onRefused`. In browsers, and in Node before 20.16, true
   * only until that code first waits for something.
   */
  get areToldHere(): boolean {
    return this.#depth > 0 || told.get()?.by === this;
  }

  tell(fact: Reported, problem: Problem): void {
    const code = problem.code ?? "problem";
    if (this.#known.has(code)) this.#count(code);
    else {
      this.#known.add(code);
      console.error(`The ledger has refused ${named(fact)}: ${problem.message}`);
    }
    if (this.#onRefused) void this.#call(this.#onRefused, fact, problem);
  }

  async #call(onRefused: Refusal, fact: Reported, problem: Problem): Promise<void> {
    const here = { by: this as Refusals | null };
    try {
      let answer;
      this.#depth += 1;
      try {
        answer = told.run(here, () => onRefused(fact, problem));
      } finally {
        this.#depth -= 1;
      }
      await answer;
    } catch (error) {
      console.error("A refusal could not be told.", error);
    }
    here.by = null;
  }

  #count(code: string): void {
    if (!this.#more.size) {
      this.#since = new Date().toTimeString().slice(0, 8);
      this.#stop = later(LINE_MS, () => this.leave());
      keep(this);
    }
    this.#more.set(code, (this.#more.get(code) ?? 0) + 1);
  }

  async finish(): Promise<void> {} // `leave` comes after it

  /** Write the number of refusals since the last line on the console. */
  leave(): void {
    const counts = [...this.#more].sort(([, one], [, two]) => two - one);
    if (!counts.length) return;
    const count = counts.reduce((sum, [, each]) => sum + each, 0);
    const facts = count === 1 ? "1 more fact was" : `${count.toLocaleString("en")} more facts were`;
    const codes = counts.map(([code]) => code).join(", ");
    console.error(`${facts} refused since ${this.#since}: ${codes}`);
    this.#more = new Map();
    this.#stop();
    done(this);
  }
}

/** A fact's type, its subject or line, and its id, as a text. */
function named(fact: Reported): string {
  const data = Object(fact.data) as Reported;
  const about = fact.subject ?? data.service_line_id;
  const parts = [String(fact.type), about ? ` about ${String(about)}` : ""];
  return parts.join("") + (fact.id ? ` (${String(fact.id)})` : "");
}
