// A live ledger, whose address and token the environment has, and servers that fail on demand.

import { randomInt } from "node:crypto";
import { EventEmitter, once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { after } from "node:test";
import { Ledger, type LedgerOptions, type Problem, type types } from "execution-ledger-client";

const url = process.env.LEDGER ?? "";
export const live = { url, token: process.env.TOKEN ?? "", source: "/tests" };
export const isLong = process.env.LONG !== undefined;

/** A client of the live ledger, through another address if one is given, with its refusals. */
export function client(options: LedgerOptions = {}) {
  const refusals: [Record<string, unknown>, Problem][] = [];
  const onRefused = (...refusal: (typeof refusals)[number]) => refusals.push(refusal);
  return { ledger: new Ledger({ ...live, onRefused, ...options }), refusals };
}

let lines = randomInt(1_000_000, 1_000_000_000) * 100;

/** A new line of the live ledger. */
export async function freshLine(model: types.ExecutionModel = "agent_runtime"): Promise<string> {
  const line = `LIN-26-${(lines += 1)}`;
  await client().ledger.lines.activate(line, {
    organization_id: "ORG-26-000001",
    workspace_id: "WS-26-000001",
    product_line: "agent_gateway",
    execution_model: model,
  });
  return line;
}

/** The notes of a line's check-ins, in the order of the log. */
export async function notes(line: string): Promise<(string | null)[]> {
  const found = [];
  const { ledger } = client();
  for await (const event of ledger.events.list({ service_line_id: line, limit: 100 })) {
    if (event.type === "execution.checked_in") found.push(event.payload.note);
  }
  return found;
}

/** A request that a server got. */
export interface Asked {
  method: string;
  path: string;
  headers: IncomingMessage["headers"];
  body: string;
}

/** An answer: null closes the connection without one. */
export interface Told {
  status: number;
  body?: unknown;
  headers?: Record<string, string>;
  /** The body to the letter, in place of JSON. */
  text?: string;
}
export type Reply = Told | null;

type Answer = Reply | void | Promise<Reply | void>;

/** A server of the test's own, which ends with the tests of its file. */
export class Server {
  readonly asked: Asked[] = [];
  readonly #came = new EventEmitter();
  readonly #sockets = new Set<Socket>();
  readonly #server = createServer((request, response) => void this.#handle(request, response));
  url = "";

  constructor(private readonly answer: (asked: Asked, response: ServerResponse) => Answer) {
    this.#server.on("connection", (socket) => {
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
    });
    after(() => this.stop());
  }

  async start(port = 0): Promise<this> {
    this.#server.listen(port, "127.0.0.1");
    await once(this.#server, "listening");
    this.url = `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
    return this;
  }

  /** Close the connections, and accept no more. */
  async stop(): Promise<void> {
    if (!this.#server.listening) return;
    this.#server.close();
    this.cut();
    await once(this.#server, "close");
  }

  /** The requests, once so many have come. */
  async requests(count: number): Promise<Asked[]> {
    while (this.asked.length < count) await once(this.#came, "request");
    return this.asked;
  }

  cut(): void {
    this.#sockets.forEach((socket) => socket.destroy());
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = "";
    for await (const piece of request) body += piece;
    const asked = {
      method: request.method ?? "",
      path: request.url ?? "",
      headers: request.headers,
      body,
    };
    this.asked.push(asked);
    this.#came.emit("request");
    const reply = await this.answer(asked, response);
    if (reply === null) request.socket.destroy();
    if (!reply) return;
    response.writeHead(reply.status, { "content-type": "application/json", ...reply.headers });
    response.end(reply.text ?? JSON.stringify(reply.body));
  }
}

/** A problem document as an answer. */
export function problem(status: number, code: string, headers: Record<string, string> = {}): Reply {
  const body = { type: "about:blank", title: "No", status, detail: "No.", code, request_id: "r-1" };
  return { status, body, headers };
}

/** An answer of something else than a ledger. */
export interface Strange extends Told {
  text: string;
  /** The media type that its error names. */
  media: string | null;
}

function strange(status: number, media: string | null, text: string, more = {}): Strange {
  const headers = { "content-type": media ? `${media}; charset=utf-8` : "", ...more };
  return { status, media, text, headers };
}

const SECRET = "<!doctype html><p>secret words</p>";

/** Answers that no route of a ledger gives. */
export const STRANGE: readonly Strange[] = [
  strange(200, "text/html", SECRET),
  strange(200, "application/json", SECRET),
  strange(200, "application/json", '{"data": {"id": "secret words'),
  strange(200, "application/json", '{"data": {"id": 7, "name": "secret words"}}'),
  strange(200, "application/json", '["secret words"]'),
  strange(200, null, ""),
  strange(302, "text/html", SECRET, { location: `${url}/v1/execution/summary` }),
  strange(307, null, "", { location: "http://127.0.0.1:9/" }),
  strange(401, "text/html", SECRET),
  strange(403, "application/json", '{"message": "secret words"}'),
  strange(404, "text/plain", "secret words"),
];

/** The answer to facts that are all recorded. */
export function taken({ body }: Asked): Reply {
  const item = { source: "/tests", outcome: "recorded", subject: "RUN-26-000001", event_ids: [] };
  const facts = JSON.parse(body) as { id: string }[];
  const data = facts.map(({ id }, index) => ({ ...item, index, id, position: 1, error: null }));
  return { status: 200, body: { data } };
}

/** Give a request to the live ledger, and its answer back, in pieces as they come. */
export async function passOn(asked: Asked, response: ServerResponse): Promise<void> {
  const { host, connection, "content-length": _, ...headers } = asked.headers;
  const answer = await fetch(live.url + asked.path, {
    method: asked.method,
    headers: headers as Record<string, string>,
    body: asked.body || null,
  });
  const { "content-encoding": __, ...told } = Object.fromEntries(answer.headers);
  delete told["content-length"];
  delete told["transfer-encoding"];
  response.writeHead(answer.status, told);
  response.flushHeaders();
  const reader = answer.body?.getReader();
  response.on("close", () => void reader?.cancel().catch(() => {}));
  for (let piece; reader && !(piece = await reader.read()).done; ) response.write(piece.value);
  response.end();
}

/** A way to the live ledger that can be shut: then it answers as it is told. */
export class Door extends Server {
  shut: ((asked: Asked, response: ServerResponse) => Answer) | null = null;

  constructor() {
    super((asked, response) => (this.shut ?? passOn)(asked, response));
  }
}

/** The console's lines, which a test expects. */
export function quiet(): string[] {
  const said: string[] = [];
  const real = { ...console };
  for (const level of ["error", "warn", "info"] as const) {
    console[level] = (...words: unknown[]) => void said.push(words.join(" "));
  }
  after(() => Object.assign(console, real));
  return said;
}
