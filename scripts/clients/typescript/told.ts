// What the clients share: who they are, the facts that they send, and how they complain.

export const address = process.env["LEDGER"] ?? "";
export const token = process.env["TOKEN"] ?? "";
export const line = process.argv[2] ?? "";

export const activated = {
  specversion: "1.0",
  id: `${line}-activated`,
  source: "/clients",
  type: "service_line.activated",
  subject: line,
  data: {
    organization_id: "ORG-26-000001",
    workspace_id: "WS-26-000001",
    product_line: "agent_gateway",
    execution_model: "agent_runtime",
  },
} as const;

export const started = {
  specversion: "1.0",
  id: `${line}-run`,
  source: "/clients",
  type: "run.started",
  data: { service_line_id: line },
} as const;

export function ensure(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(what);
}

export function present<T>(value: T | undefined, error: unknown, what: string): T {
  if (value === undefined) throw new Error(`${what}: ${JSON.stringify(error)}`);
  return value;
}
