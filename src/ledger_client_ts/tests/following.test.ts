import assert from "node:assert/strict";
import { spawn, execFileSync, type ChildProcess } from "node:child_process";
import { EventEmitter, once } from "node:events";
import { mkdtempSync } from "node:fs";
import type { ServerResponse } from "node:http";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { Ledger, type Store, Unauthorized } from "execution-ledger-client";
import { FileCursor } from "execution-ledger-client/node";
import { client, Door, freshLine, isLong, passOn, problem, quiet, Server } from "./support.js";
import type { Asked } from "./support.js";

quiet();
const folder = mkdtempSync(join(tmpdir(), "ledger-"));

/** A store that remembers each position that was saved. */
class Saved implements Store {
  readonly all: string[] = [];
  load = () => this.all.at(-1);
  save = async (cursor: string) => void this.all.push(cursor);
}

async function checkIn(line: string, ...notes: string[]): Promise<void> {
  const { ledger } = client();
  for (const note of notes) await ledger.lines.checkIn(line, { note });
}

test("a follower gets what was, then each new event, and ends by its signal", async () => {
  const line = await freshLine();
  await checkIn(line, "one", "two");
  const { ledger } = client();
  const stop = new AbortController();
  const store = new Saved();
  const notes: (string | null)[] = [];
  const follower = ledger.events.follow({
    store,
    service_line_id: line,
    type: ["execution.checked_in"],
    signal: stop.signal,
  });
  const complete: number[] = [];
  follower.onComplete((position) => {
    complete.push(position);
    void checkIn(line, "three");
  });
  for await (const event of follower) {
    assert.equal(store.all.length, notes.length); // saved behind the handler
    notes.push(event.payload.note);
    if (event.payload.note === "three") stop.abort();
  }
  assert.deepEqual(notes, ["one", "two", "three"]);
  assert.equal(store.all.length, 3);
  assert.equal(complete.length, 1);
  assert.ok(Number(follower.completeTo) >= Number(complete[0]));
  for await (const _ of follower) assert.fail("after the end");
});

test("a follower that is left gives the event again that was not handled", async () => {
  const line = await freshLine();
  await checkIn(line, "one", "two", "three");
  const store = new FileCursor(join(folder, "left"));
  assert.equal(store.load(), null);
  const options = { store, service_line_id: line, type: "execution.checked_in" } as const;
  const seen: (string | null)[] = [];
  for await (const event of client().ledger.events.follow(options)) {
    seen.push(event.payload.note);
    if (event.payload.note === "two") break;
  }
  for await (const event of client().ledger.events.follow(options).upToNow()) {
    seen.push(event.payload.note);
  }
  assert.deepEqual(seen, ["one", "two", "two", "three"]);
  for await (const _ of client().ledger.events.follow(options).upToNow()) assert.fail("twice");
});

test("a handler's error leaves the loop, and the event comes again", async () => {
  const line = await freshLine();
  const store = new Saved();
  const options = { store, service_line_id: line };
  const handled = async () => {
    for await (const event of client().ledger.events.follow(options)) throw new Error(event.type);
  };
  await assert.rejects(handled, /execution.started/);
  await assert.rejects(handled, /execution.started/);
  assert.deepEqual(store.all, []);
});

test("nothing is lost or repeated over outages, cut connections and half events", async () => {
  const line = await freshLine();
  await checkIn(line, "cut");
  const door = await new Door().start();
  const stop = new AbortController();
  /** Answer the next stream with half an event, and what comes before it with a refusal. */
  const half = (asked: Asked, response: ServerResponse) => {
    if (!asked.path.includes("/stream")) return passOn(asked, response);
    door.shut = null;
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write('id: EVT-26-999999\ndata: {"id":"EVT-26-999999","type":"exec', () =>
      response.destroy(),
    );
  };
  const away = (count: number) => () => {
    if (!(count -= 1)) door.shut = null;
    return count % 2 ? problem(503, "behind") : null;
  };
  const handled: Record<string, () => Promise<void>> = {
    cut: async () => (door.cut(), checkIn(line, "half")),
    half: async () => ((door.shut = half), door.cut(), checkIn(line, "away")),
    away: async () => ((door.shut = away(3)), door.cut(), checkIn(line, "one", "two", "end")),
    end: async () => stop.abort(),
  };
  const seen: (string | null)[] = [];
  const { signal } = stop;
  const filters = { service_line_id: line, type: "execution.checked_in", signal } as const;
  for await (const event of client({ url: door.url }).ledger.events.follow(filters)) {
    seen.push(event.payload.note);
    await handled[event.payload.note ?? ""]?.();
  }
  assert.deepEqual(seen, ["cut", "half", "away", "one", "two", "end"]);
  assert.ok(door.asked.filter(({ path }) => path.includes("/stream")).length >= 2);
});

test("a signal ends a follower up to now; a follower that is left closes its stream", async () => {
  const line = await freshLine();
  await checkIn(line, "one");
  const { ledger } = client();
  const stop = new AbortController();
  let count = 0;
  const filters = { service_line_id: line, signal: stop.signal };
  for await (const _ of ledger.events.follow(filters).upToNow()) stop.abort((count += 1));
  assert.equal(count, 1);

  const closed = new EventEmitter();
  const door = await new Server((asked, response) => {
    if (asked.path.includes("/stream")) response.on("close", () => closed.emit("close"));
    return passOn(asked, response);
  }).start();
  const follower = client({ url: door.url }).ledger.events.follow({ service_line_id: line });
  follower.onComplete(() => void checkIn(line, "streamed"));
  const left = once(closed, "close");
  for await (const event of follower) {
    if (event.type === "execution.checked_in" && event.payload.note === "streamed") break;
  }
  await left;
});

test("a refusal, such as of a revoked key, ends the loop", async () => {
  const stranger = client({ token: "elk_unknown" }).ledger;
  await assert.rejects(async () => {
    for await (const _ of stranger.events.follow()) assert.fail("an event");
  }, Unauthorized);
});

test("a signal ends a follower that waits for an answer, or for the service", async () => {
  const silent = await new Server(() => {}).start();
  const away = await new Server(() => problem(503, "behind")).start();
  for (const { url } of [silent, away]) {
    const signal = AbortSignal.timeout(300);
    for await (const _ of client({ url }).ledger.events.follow({ signal })) assert.fail("an event");
    assert.ok(signal.aborted);
  }
});

/** A ledger of the test's own, which can be killed. */
class OwnLedger {
  url = "";
  token = "";
  #process: ChildProcess | undefined;
  readonly #env = { ...process.env, LEDGER_DATA_DIR: join(folder, "ledger") };

  async start(): Promise<void> {
    const port = this.url ? new URL(this.url).port : String(await freePort());
    this.url = `http://127.0.0.1:${port}`;
    const words = ["serve", "--port", port, "--workers", "1"];
    this.#process = spawn(process.env.LEDGER_PROGRAM ?? "ledger", words, { env: this.#env });
    await client({ url: this.url, token: "none", timeout: 60 }).ledger.service.readiness();
  }

  makeKey(): void {
    const words = "keys create --organization ORG-26-000001 --permission read write".split(" ");
    words.push("service_lines:manage");
    const program = process.env.LEDGER_PROGRAM ?? "ledger";
    this.token = execFileSync(program, words, { env: this.#env }).toString().trim();
  }

  async kill(): Promise<void> {
    const ended = once(this.#process as ChildProcess, "exit");
    this.#process?.kill("SIGKILL");
    await ended;
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

test("facts and followers outlive a killed and restarted service", { skip: !isLong }, async () => {
  const own = new OwnLedger();
  await own.start();
  after(() => own.kill());
  own.makeKey();
  const ledger = new Ledger({ url: own.url, token: own.token, source: "/tests" });
  await ledger.lines.activate("LIN-26-000001", {
    organization_id: "ORG-26-000001",
    workspace_id: "WS-26-000001",
    product_line: "agent_gateway",
    execution_model: "agent_runtime",
  });
  const stop = new AbortController();
  const seen: (string | null)[] = [];
  const followed = (async () => {
    const store = new FileCursor(join(folder, "restarted"));
    const follower = ledger.events.follow({
      store,
      type: "execution.checked_in",
      signal: stop.signal,
    });
    for await (const event of follower) {
      seen.push(event.payload.note);
      if (event.payload.note === "end") stop.abort();
    }
  })();
  const told: string[] = [];
  for (const round of [1, 2, 3]) {
    for (let at = 0; at < 500; at += 1) {
      told.push(`${round}.${at}`);
      ledger.report("execution.checked_in", "LIN-26-000001", { note: `${round}.${at}` });
    }
    await new Promise(setImmediate); // the batch is on its way
    await own.kill();
    await own.start();
  }
  ledger.report("execution.checked_in", "LIN-26-000001", { note: "end" });
  assert.ok((await ledger.flush(60)).ok);
  await followed;
  assert.deepEqual(seen, [...told, "end"]);
});
