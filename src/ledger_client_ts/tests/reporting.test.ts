import assert from "node:assert/strict";
import { test } from "node:test";
import type { Flushed, Ledger } from "execution-ledger-client";
import {
  client,
  Door,
  freshLine,
  isLong,
  live,
  notes,
  problem,
  quiet,
  Server,
  taken,
} from "./support.js";
import type { Asked, Reply } from "./support.js";

const said = quiet();
const COUNT = isLong ? 10_000 : 2_000;

/** What a flush tells of facts that are all recorded. */
function all(recorded: number): Flushed {
  return { recorded, refused: 0, waiting: 0, ok: true };
}

/** What a flush tells of facts that are all refused. */
function refused(count: number): Flushed {
  return { recorded: 0, refused: count, waiting: 0, ok: false };
}

function reportAll(ledger: Ledger, line: string, count: number): string[] {
  const told = Array.from({ length: count }, (_, at) => `note ${at}`);
  for (const note of told) ledger.report("execution.checked_in", line, { note });
  return told;
}

test("facts are recorded in their order, each once, through outages of every kind", async () => {
  const line = await freshLine();
  const outages: (() => Reply | Promise<Reply>)[] = [
    () => problem(503, "behind"),
    () => null,
    () => problem(429, "busy", { "retry-after": "1" }),
    () => problem(502, "bad_gateway"),
    () => ({ status: 200, body: "<!doctype html>" }),
  ];
  const door = await new Door().start();
  door.shut = async (asked: Asked) => {
    const outage = outages.shift();
    if (outage) return outage();
    door.shut = null;
    // Recorded, but the answer is lost: the same bytes come again, and change nothing.
    await fetch(live.url + asked.path, {
      method: "POST",
      headers: { authorization: `Bearer ${live.token}`, "content-type": "application/json" },
      body: asked.body,
    });
    return null;
  };
  const { ledger, refusals } = client({ url: door.url });
  const told = reportAll(ledger, line, COUNT);
  let recorded = 0;
  for (let flushed; !flushed?.ok; recorded += flushed.recorded) {
    flushed = await ledger.flush(0.1); // each ends a pause
    assert.equal(flushed.waiting, ledger.waiting);
  }
  assert.equal(recorded, COUNT); // one flush after the other tells each outcome once
  assert.deepEqual(await notes(line), told);
  assert.deepEqual(refusals, []);
  const bodies = door.asked.slice(0, 7).map((asked) => asked.body);
  assert.equal(new Set(bodies).size, 1);
  assert.equal(door.asked.length, 6 + Math.ceil(COUNT / 1000));
  assert.ok(said.some((each) => /takes no facts, and \d+ wait/.test(each)));
  assert.ok(said.includes("The ledger takes facts again."));
});

test("connections that are cut in the middle lose and repeat nothing", async () => {
  const line = await freshLine();
  const door = await new Door().start();
  const { ledger } = client({ url: door.url });
  const told = reportAll(ledger, line, COUNT);
  for (const count of [1, 2]) {
    await door.requests(count);
    door.cut();
  }
  assert.deepEqual(await ledger.flush(60), all(COUNT));
  assert.deepEqual(await notes(line), told);
});

test("a refused fact is told, and those beside it are recorded", async () => {
  const line = await freshLine();
  const { ledger, refusals } = client();
  ledger.report("execution.checked_in", line, { note: "one" });
  ledger.report("execution.checked_in", "LIN-26-999999", { note: "lost" }, { id: "lost" });
  ledger.report("execution.checked_in", line, { hours: -1 });
  ledger.report({ type: "execution.checked_in", subject: line, data: { note: "two" } });
  ledger.report("execution.checked_in", line, { note: 1n as unknown as string });
  assert.deepEqual(await ledger.flush(Infinity), { recorded: 2, refused: 3, waiting: 0, ok: false });
  assert.deepEqual([ledger.refused, ledger.waiting], [3, 0]);
  assert.deepEqual(await ledger.flush(), all(0));
  assert.deepEqual(await notes(line), ["one", "two"]);
  const codes = refusals.map(([fact, { code, status }]) => [fact.type, code, status]);
  assert.deepEqual(codes, [
    ["execution.checked_in", "not_sendable", 0],
    ["execution.checked_in", "not_found", 404],
    ["execution.checked_in", "invalid_request", 422],
  ]);
  assert.equal(refusals[1]?.[0].id, "lost");
  assert.ok(
    said.some((each) =>
      /has refused execution.checked_in about LIN-26-999999 \(lost\): 404 not_found: .* \(request /.test(each),
    ),
  );
});

test("report never throws, whatever it is given", async () => {
  const server = await new Server(taken).start();
  const { ledger, refusals } = client({ url: server.url });
  const report = ledger.report.bind(ledger) as (...given: unknown[]) => void;
  const hostile = {
    get type() {
      throw new Error("no type");
    },
  };
  for (const given of [
    null,
    undefined,
    7,
    hostile,
    { type: 1n },
    { type: Symbol("x"), data: 1n },
  ]) {
    report(given);
  }
  report("execution.checked_in", Symbol("x"), { hours: 1n });
  assert.deepEqual(await ledger.flush(), { ...refused(refusals.length), recorded: 1 });
  assert.ok(refusals.length >= 5);
  assert.deepEqual(new Set(refusals.map(([, { code }]) => code)), new Set(["not_sendable"]));
});

test("an id of one's own is recorded once, also by another program", async () => {
  const line = await freshLine();
  for (const { ledger } of [client(), client()]) {
    ledger.report("execution.checked_in", line, { note: "once" }, { id: `once-${line}` });
    assert.deepEqual(await ledger.flush(), all(1)); // a duplicate is recorded
  }
  const [item] = await client().ledger.send([
    { id: `once-${line}`, type: "execution.checked_in", subject: line, data: { note: "once" } },
  ]);
  assert.equal(item?.outcome, "duplicate");
  assert.deepEqual(await notes(line), ["once"]);
});

test("a fact at fault that fails the whole request is found, and refused alone", async () => {
  const server = await new Server((asked) => {
    return asked.body.includes("poison") ? problem(422, "invalid_request") : taken(asked);
  }).start();
  const { ledger, refusals } = client({ url: server.url });
  for (let at = 0; at < 20; at += 1) {
    const note = at === 13 ? "poison" : `${at}`;
    ledger.report("execution.checked_in", "LIN-26-000001", { note });
  }
  assert.deepEqual(await ledger.flush(), { ...refused(1), recorded: 19 });
  assert.deepEqual(
    refusals.map(([fact]) => fact.data),
    [{ note: "poison" }],
  );
  const recorded = server.asked.filter(({ body }) => !body.includes("poison"));
  const bodies = recorded.flatMap(({ body }) => JSON.parse(body) as { data: { note: string } }[]);
  const expected = Array.from({ length: 20 }, (_, at) => `${at}`).filter((each) => each !== "13");
  assert.deepEqual(
    bodies.map((fact) => fact.data.note),
    expected,
  );
});

test("items that are not judged yet are sent again", async () => {
  let isHeld = true;
  const server = await new Server((asked) => {
    const reply = taken(asked) as { status: number; body: { data: { error: unknown }[] } };
    const [, second] = reply.body.data;
    if (isHeld && second)
      second.error = { status: 429, code: "busy", detail: "Later.", errors: [] };
    isHeld = false;
    return reply;
  }).start();
  const { ledger, refusals } = client({ url: server.url });
  reportAll(ledger, "LIN-26-000001", 3);
  assert.deepEqual(await ledger.flush(), all(3));
  assert.deepEqual(
    server.asked.map(({ body }) => JSON.parse(body).length),
    [3, 1],
  );
  assert.deepEqual(refusals, []);
});

test("a wrong token refuses what was reported, and never the caller", async () => {
  const { ledger, refusals } = client({ token: "elk_unknown" });
  reportAll(ledger, "LIN-26-000001", 3);
  assert.equal(await ledger.run("LIN-26-000001", () => 42), 42);
  assert.deepEqual(await ledger.flush(), refused(5)); // of the run two facts, start and end
  assert.deepEqual(new Set(refusals.map(([, { name }]) => name)), new Set(["Unauthorized"]));
});

test("memory is bounded: the newest fact is refused, and the host is not blocked", async () => {
  let isAway = true;
  const server = await new Server((asked) => {
    return isAway ? problem(503, "behind") : taken(asked);
  }).start();
  const { ledger, refusals } = client({ url: server.url });
  const began = process.cpuUsage();
  for (let at = 0; at < 50_002; at += 1) {
    ledger.report("execution.checked_in", "LIN-26-000001", { note: `${at}` });
  }
  const { user, system } = process.cpuUsage(began); // the machine may be busy with others
  assert.ok(user + system < 5_000_000);
  const told = refusals.map(([fact, problem]) => [fact.data, problem.code]);
  assert.deepEqual(told, [
    [{ note: "50000" }, "queue_full"],
    [{ note: "50001" }, "queue_full"],
  ]);
  assert.equal(said.filter((each) => /queue_full/.test(each)).length, 1);
  const full = { recorded: 0, refused: 2, waiting: 50_000, ok: false };
  assert.deepEqual(await ledger.flush(0.05), full);

  const large = client({ url: server.url });
  for (let at = 0; at < 300; at += 1) {
    const note = "ü".repeat(125_000);
    large.ledger.report("execution.checked_in", "LIN-26-000001", { note });
  }
  assert.equal(300 - large.refusals.length, Math.floor((64 * 2 ** 20) / 250_230));
  isAway = false;
  const { length } = large.refusals;
  assert.deepEqual(await ledger.flush(60), all(50_000));
  assert.deepEqual(await large.ledger.flush(60), { ...refused(length), recorded: 300 - length });
});

test("onRefused that throws, rejects or reports does no harm", async () => {
  let calls = 0;
  const { ledger } = client({
    onRefused: async () => {
      calls += 1;
      if (calls === 1) throw new Error("by a callback");
      if (calls === 2) ledger.report("execution.checked_in", "LIN-26-999998", {});
      return ledger.flush();
    },
  });
  reportAll(ledger, "LIN-26-999999", 2);
  assert.deepEqual(await ledger.flush(), refused(2));
  assert.deepEqual(await ledger.flush(), refused(1));
  assert.equal(calls, 3);
  assert.ok(said.some((each) => /A refusal could not be told/.test(each)));
});

test("a service that is away for a minute gets all facts", { skip: !isLong }, async () => {
  const line = await freshLine();
  const door = await new Door().start();
  const back = Date.now() + 60_000;
  door.shut = () => {
    if (Date.now() < back) return null;
    door.shut = null;
    return problem(503, "behind");
  };
  const { ledger } = client({ url: door.url });
  const told = reportAll(ledger, line, COUNT);
  assert.ok((await ledger.flush(120)).ok);
  assert.deepEqual(await notes(line), told);
});
