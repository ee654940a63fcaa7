import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { Conflict, Forbidden, Invalid, NotFound, NotReachable } from "execution-ledger-client";
import { Unauthorized, type Flushed, type Ledger } from "execution-ledger-client";
import { client, freshLine, problem, quiet, Server, taken, type Asked } from "./support.js";

const said = quiet();
const LINE = "LIN-26-000001";
/** So many facts wait in memory. */
const ROOM = 50_000;

function flushed(recorded: number, refused = 0, waiting = 0): Flushed {
  return { recorded, refused, waiting, ok: !refused && !waiting };
}

/** A ledger that takes facts when it is told to, and its client. */
async function shut(options: Parameters<typeof client>[0] = {}) {
  let isAway = true;
  const silent: (() => void)[] = [];
  const server = await new Server(async (asked: Asked) => {
    if (isAway) await new Promise<void>((resolve) => silent.push(resolve));
    return taken(asked);
  }).start();
  const open = () => {
    isAway = false;
    silent.forEach((resolve) => resolve());
  };
  return { ...client({ url: server.url, ...options }), server, open };
}

function report(ledger: Ledger, count: number): void {
  for (let at = 0; at < count; at += 1) ledger.report("execution.checked_in", LINE, { note: `${at}` });
}

test("a flush tells what has happened since the last one, and what is sent but not answered", async () => {
  const { ledger, server, open } = await shut();
  assert.deepEqual(await ledger.flush(), flushed(0));
  report(ledger, 3);
  await server.requests(1); // sent
  assert.deepEqual([ledger.waiting, ledger.refused], [3, 0]);
  assert.deepEqual(await ledger.flush(0.01), flushed(0, 0, 3));
  const first = ledger.flush(60);
  report(ledger, 1);
  const second = ledger.flush(60);
  open();
  // Those side by side may tell the same: what has happened before the first returns.
  assert.deepEqual([await first, await second], [flushed(3), flushed(4)]);
  assert.deepEqual(await ledger.flush(), flushed(0));
  assert.deepEqual([ledger.waiting, ledger.refused], [0, 0]);
});

test("a report with wait waits for room, in its order, and by default nothing waits", async () => {
  const { ledger, refusals, server, open } = await shut();
  report(ledger, ROOM);
  ledger.report("execution.checked_in", LINE, { note: "refused" });
  const codes = () => refusals.map(([{ data }, { code }]) => [(data as { note: string }).note, code]);
  assert.deepEqual(codes(), [["refused", "queue_full"]]);
  await ledger.report("execution.checked_in", LINE, { note: "late" }, { wait: 0.01 });
  assert.deepEqual(codes()[1], ["late", "queue_full"]);

  let taken = 0;
  const waits = ["first", "second"].map((note) => {
    const fact = { type: "execution.checked_in", subject: LINE, data: { note } } as const;
    return ledger.report(fact, { wait: true }).then(() => (taken += 1));
  });
  waits.push(ledger.report("execution.checked_in", LINE, { note: "third" }, { wait: 60 }).then(() => 0));
  await turn();
  assert.equal(taken, 0);
  assert.equal(ledger.waiting, ROOM + 3);
  assert.deepEqual(await ledger.flush(0.01), flushed(0, 2, ROOM + 3));
  open();
  await Promise.all(waits);
  assert.equal(taken, 2);
  await ledger.report("execution.checked_in", LINE, { note: "room" }, { wait: true });
  assert.deepEqual(await ledger.flush(60), flushed(ROOM + 4));
  const note = "x".repeat(64 * 2 ** 20); // never has room
  await ledger.report("execution.checked_in", LINE, { note }, { wait: true });
  assert.deepEqual(await ledger.flush(), flushed(0, 1));
  const sent = server.asked.flatMap(({ body }) => JSON.parse(body) as { data: { note: string } }[]);
  assert.deepEqual(
    sent.slice(ROOM).map(({ data }) => data.note),
    ["first", "second", "third", "room"],
  );
  assert.ok(!sent.some((fact) => "wait" in fact));
  assert.equal(refusals.length, 3);
});

test("a report within onRefused, and one of a run, waits for no room", async () => {
  const notes: unknown[] = [];
  let within: Flushed[] = [];
  const { ledger, open } = await shut({
    onRefused: async (fact) => {
      const { note } = Object(fact.data) as { note?: string };
      notes.push(note);
      if (note !== "begins") return;
      await ledger.report("execution.checked_in", LINE, { note: "at once" }, { wait: true });
      within = [await ledger.flush(60)];
      await turn();
      await ledger.report("execution.checked_in", LINE, { note: "later" }, { wait: true });
      within.push(await ledger.flush(60));
    },
  });
  report(ledger, ROOM);
  ledger.report("execution.checked_in", LINE, { note: "begins" });
  while (within.length < 2) await turn();
  assert.deepEqual(notes, ["begins", "at once", "later"]);
  assert.deepEqual(within, [flushed(0, 2, ROOM), flushed(0, 1, ROOM)]);
  assert.equal(await ledger.run(LINE, () => 42), 42); // its start is refused
  assert.equal(ledger.refused, 4);
  open();
  assert.deepEqual(await ledger.flush(60), flushed(ROOM, 1));
});

test("the console names the first refusal of a code, and counts later ones once a minute", () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  try {
    const { ledger } = client();
    const lines = () => said.splice(0).filter((each) => !/takes no facts/.test(each));
    lines();
    const refuse = (count: number) => {
      for (let at = 0; at < count; at += 1) ledger.report("run.failed", null, 1n as never, { id: "f" });
    };
    refuse(1);
    assert.equal(lines().length, 1);
    refuse(1_204);
    assert.deepEqual(lines(), []);
    mock.timers.tick(59_999);
    assert.deepEqual(lines(), []);
    mock.timers.tick(1);
    const [line, ...others] = lines();
    assert.match(line ?? "", /^1,204 more facts were refused since \d\d:\d\d:\d\d: not_sendable$/);
    assert.deepEqual(others, []);
    mock.timers.tick(60_000);
    assert.deepEqual(lines(), []);
    refuse(1);
    mock.timers.tick(60_000);
    assert.match(lines().join(), /^1 more fact was refused since \d\d:\d\d:\d\d: not_sendable$/);
  } finally {
    mock.timers.reset();
  }
});

test("the line of a refusal names the fact, the line, the places and the request", async () => {
  const line = await freshLine();
  const { ledger } = client();
  ledger.report("run.started", null, { service_line_id: line, attempt: 0 }, { id: "wrong" });
  assert.deepEqual(await ledger.flush(), flushed(0, 1));
  const told = said.filter((each) => each.includes("(wrong)"));
  assert.equal(told.length, 1);
  const about = `The ledger has refused run.started about ${line} (wrong): 422 invalid_request: `;
  assert.ok(told[0]?.startsWith(about), told[0]);
  assert.match(told[0] ?? "", / \/data\/attempt: .*\(request \w+\)$/);
});

test("a check gives the credential of a program that may report about a line", async () => {
  const line = await freshLine();
  const { ledger } = client();
  const found = await ledger.check(line);
  assert.deepEqual(found.service_line, { service_line_id: line, state: "running" });
  assert.equal((await ledger.check()).service_line, null);
  await ledger.lines.close(line, { reason: "Done" });
  await assert.rejects(ledger.check(line), { name: "Conflict", code: "invalid_state" });
  await assert.rejects(ledger.check(line), Conflict);
});

test("a check throws what would refuse each fact", async () => {
  const line = await freshLine();
  const { ledger } = client();
  const make = async (permission: "read" | "write") => {
    const { key } = await ledger.keys.create({ name: permission, permissions: [permission] });
    return client({ token: key }).ledger;
  };
  const reader = await make("read");
  for (const each of [line, undefined]) await assert.rejects(reader.check(each), Forbidden);
  const writer = await make("write");
  assert.equal((await writer.check(line)).service_line?.service_line_id, line);
  await assert.rejects(client({ token: "elk_unknown" }).ledger.check(line), Unauthorized);
  await assert.rejects(writer.check("LIN-26-999999"), NotFound);
  for (const word of ["LIN-26-1", "", "a,b"]) await assert.rejects(writer.check(word), Invalid);

  const admin = { id: "KEY-26-000001", type: "api_key", permissions: ["admin"], service_line: null };
  const server = await new Server(({ path }) => {
    return path === "/v1/credential" ? { status: 200, body: { data: admin } } : problem(404, "none");
  }).start();
  assert.deepEqual(await client({ url: server.url }).ledger.check(), admin);
  assert.equal(server.asked.length, 1);
  await server.stop();
  const away = client({ url: server.url, timeout: 0.2 }).ledger;
  await assert.rejects(away.check(line), NotReachable);
});
