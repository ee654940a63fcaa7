// The parts in which Node and browsers differ: environment, contexts, timers, end of the program.

type Node = typeof globalThis.process;

/** Node's `process`, which Deno and Bun have too; undefined in browsers. */
const node: Node | undefined = globalThis.process?.versions?.node ? globalThis.process : undefined;

/** A variable of the environment; undefined without one. */
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

/** The headers that identify the client. In a browser, a page cannot set its own. */
export const AGENT: Record<string, string> = node
  ? { "user-agent": "execution-ledger-client-ts/0.1.0" }
  : {};

/** A value that code called within `run` gets by `get`, also after an `await`. */
export interface Context<T> {
  run<R>(value: T, within: () => R): R;
  get(): T | undefined;
}

/** A context of Node. Browsers have none: there `get` returns nothing. */
export function context<T>(): Context<T> {
  const hooks = node?.getBuiltinModule?.("node:async_hooks");
  if (hooks === undefined) return { run: (_, within) => within(), get: () => undefined };
  const storage = new hooks.AsyncLocalStorage<T>();
  return { run: (value, within) => storage.run(value, within), get: () => storage.getStore() };
}

/** Call a function after some milliseconds; a time beyond the limit of timers is cut. */
export function timer(ms: number, work: () => void): ReturnType<typeof setTimeout> {
  return setTimeout(work, Math.min(ms, 2 ** 31 - 1));
}

/** Call a function after some milliseconds, unless the program ends before. */
export function later(ms: number, work: () => void): () => void {
  const started = timer(ms, work);
  (started as { unref?: () => void }).unref?.();
  return () => clearTimeout(started);
}

/** A new unique name. `crypto.randomUUID` is missing in pages without TLS. */
export function unique(): string {
  const octets = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(octets, (octet) => octet.toString(16).padStart(2, "0")).join("");
}

/** Work that the end of the program, or of the page, must not cut off. */
export interface Unfinished {
  /** Called when the program has nothing else to do. Node waits for the promise. */
  finish(): Promise<void>;
  /** Called when the program ends at once, or the user leaves the page. */
  leave(isPage: boolean): void;
}

const unfinished = new Set<Unfinished>();
let isWatching = false;

/** Track work until `done` is called. One listener serves all ledgers of a program. */
export function keep(work: Unfinished): void {
  unfinished.add(work);
  if (isWatching) return;
  isWatching = true;
  const leave = () => unfinished.forEach((each) => each.leave(!node));
  node?.on("beforeExit", () => unfinished.forEach((each) => void each.finish()));
  node?.on("exit", leave);
  if (!node) globalThis.addEventListener?.("pagehide", leave);
}

/** Stop tracking work. */
export function done(work: Unfinished): void {
  unfinished.delete(work);
}
