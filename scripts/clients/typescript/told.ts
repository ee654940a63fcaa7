// What the clients share: who they are, and how they complain.

export const address = process.env["LEDGER"] ?? "";
export const token = process.env["TOKEN"] ?? "";
export const line = process.argv[2] ?? "";

export function ensure(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(what);
}

export function present<T>(value: T | undefined, error: unknown, what: string): T {
  if (value === undefined) throw new Error(`${what}: ${JSON.stringify(error)}`);
  return value;
}
