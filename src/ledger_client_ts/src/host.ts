// The parts that Node and browsers do not share: the environment, contexts, timers, the end.

type Node = typeof globalThis.process;

/** Node's `process`, also of Deno and Bun; undefined in browsers. */
const node: Node | undefined = globalThis.process?.versions?.node ? globalThis.process : undefined;

/** A variable of the environment; undefined where there is none. */
export function variable(name: string): string | undefined {
  return node?.env[name] || undefined;
}

/** The source of a program that does not name itself: `/` and its file's name. */
export function program(): string {
  const file = node?.argv[1]
    ?.split(/[\\/]/)
    .at(-1)
    ?.replace(/\.\w+$/, "");
  return `/${file || (node ? "node" : "browser")}`;
}

/** The headers that say who asks. A page cannot name itself. */
export const AGENT: Record<string, string> = node
  ? { "user-agent": "execution-ledger-client-ts/0.1.0" }
  : {};

/** A value that code called within `run` finds by `get`, also after waiting. */
export interface Context<T> {
  run<R>(value: T, within: () => R): R;
  get(): T | undefined;
}

/** A context of Node's. Browsers have none: there `get` finds nothing. */
export function context<T>(): Context<T> {
  const hooks = node?.getBuiltinModule?.("node:async_hooks");
  if (hooks === undefined) return { run: (_, within) => within(), get: () => undefined };
  const storage = new hooks.AsyncLocalStorage<T>();
  return { run: (value, within) => storage.run(value, within), get: () => storage.getStore() };
}

/** Call a function after some milliseconds; a longer time than timers have is cut. */
export function timer(ms: number, work: () => void): ReturnType<typeof setTimeout> {
  return setTimeout(work, Math.min(ms, 2 ** 31 - 1));
}

/** Call a function after some milliseconds, unless the program ends before. */
export function later(ms: number, work: () => void): () => void {
  const started = timer(ms, work);
  (started as { unref?: () => void }).unref?.();
  return () => clearTimeout(started);
}

/** A new name, unique everywhere. `crypto.randomUUID` is missing in pages without TLS. */
export function unique(): string {
  const octets = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(octets, (octet) => octet.toString(16).padStart(2, "0")).join("");
}

/** Work that the end of the program, or of the page, must not cut off. */
export interface Unfinished {
  /** The program has nothing else to do. Node waits for the promise. */
  finish(): Promise<void>;
  /** The program ends at once, or the page is left. */
  leave(isPage: boolean): void;
}

const unfinished = new Set<Unfinished>();
let isWatching = false;

/** Keep work until `done` is called: one listener serves all ledgers of a program. */
export function keep(work: Unfinished): void {
  unfinished.add(work);
  if (isWatching) return;
  isWatching = true;
  const leave = () => unfinished.forEach((each) => each.leave(!node));
  node?.on("beforeExit", () => unfinished.forEach((each) => void each.finish()));
  node?.on("exit", leave);
  if (!node) globalThis.addEventListener?.("pagehide", leave);
}

/** Forget work that is done. */
export function done(work: Unfinished): void {
  unfinished.delete(work);
}
