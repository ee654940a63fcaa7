import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { test } from "node:test";
import { currentRun, type OpenRun, type types } from "execution-ledger-client";
import { client, Door, freshLine, isLong, problem, quiet, Server, taken } from "./support.js";

const said = quiet();
const source = `/runs/${randomUUID()}`;
const { ledger } = client({ source });

/** The runs of a line by their names, once all that was reported is judged. */
async function runsOf(line: string, reporter = ledger): Promise<Record<string, types.Run>> {
  assert.equal((await reporter.flush()).waiting, 0);
  const found: Record<string, types.Run> = {};
  for await (const run of ledger.lines.runs(line)) found[`${run.external_id}/${run.attempt}`] = run;
  return found;
}

test("a function's run completes with its output and tokens, and the value passes", async () => {
  const line = await freshLine();
  const plan = { name: "one", input: { day: "Monday" } };
  const value = await ledger.run(line, plan, async (run) => {
    run.tokens({ model: "small", input: 1_200, output: 640, cache_read: 1_000 });
    run.tokens({ model: "small", input: 300, reasoning: undefined });
    run.tokens({ model: "large", output: 5, reasoning: 9 });
    run.output({ tasks: 13 });
    run.output({ tasks: 14 });
    return { a: 1 };
  });
  assert.deepEqual(value, { a: 1 });
  assert.equal(
    await ledger.run(line, { name: "two" }, (run) => (run.tokens(7), run.tokens(5), 42)),
    42,
  );
  const runs = await runsOf(line);
  const { status, input, output, tokens_used } = await ledger.runs.get(runs["one/1"]?.id ?? "");
  assert.deepEqual([status, input, output], ["completed", { day: "Monday" }, { tasks: 14 }]);
  assert.equal(tokens_used, 1_500 + 640 + 5);
  const rows = runs["one/1"]?.token_usage?.map((row) => [
    row.model,
    row.input,
    row.output,
    row.cache_read,
  ]);
  assert.deepEqual(rows?.sort(), [
    ["large", 0, 5, 0],
    ["small", 1500, 640, 1000],
  ]);
  assert.equal(runs["two/1"]?.tokens_used, 12);
});

test("an error fails the run by its name, and reaches the caller", async () => {
  const line = await freshLine();
  const error = new RangeError("a secret");
  const fail = () => {
    throw error;
  };
  await assert.rejects(ledger.run(line, { name: "quiet" }, fail), (each) => each === error);
  await assert.rejects(ledger.run(line, { name: "told", tellsErrors: true }, async () => fail()));
  await assert.rejects(ledger.run(line, { name: "text" }, () => Promise.reject("a text")));
  const hostile = {
    get name() {
      throw new Error("no name");
    },
  };
  const rejected = await ledger
    .run(line, { name: "odd" }, () => Promise.reject(hostile))
    .catch((e) => e);
  assert.equal(rejected, hostile);
  const stop = AbortSignal.abort();
  await assert.rejects(ledger.run(line, { name: "cancelled" }, () => stop.throwIfAborted()));
  const runs = await runsOf(line);
  const told = Object.entries(runs).map(([name, run]) => [name, run.status, run.error]);
  assert.deepEqual(Object.fromEntries(told.map(([name, ...rest]) => [name, rest])), {
    "quiet/1": ["failed", { code: "RangeError", message: null }],
    "told/1": ["failed", { code: "RangeError", message: "a secret" }],
    "text/1": ["failed", { code: "string", message: null }],
    "odd/1": ["failed", { code: "unknown", message: null }],
    "cancelled/1": ["cancelled", null],
  });
});

test("runs within a run are its children, side by side too", async () => {
  const line = await freshLine();
  assert.equal(currentRun(), undefined);
  await ledger.run(line, { name: "whole" }, async (whole) => {
    assert.equal(currentRun(), whole);
    await Promise.all(
      ["left", "right"].map((name) =>
        ledger.run(line, { name }, async () => {
          await new Promise(setImmediate);
          await ledger.run(line, { name: `${name} within` }, () => {});
        }),
      ),
    );
    await ledger.run(line, { name: "elsewhere", parent: "later" }, () => {});
  });
  await ledger.run(line, { name: "later" }, () => {});
  assert.equal(currentRun(), undefined);
  const runs = await runsOf(line);
  const parents = Object.values(runs).map(({ external_id, parent_run_id }) => {
    return [external_id, Object.values(runs).find(({ id }) => id === parent_run_id)?.external_id];
  });
  assert.deepEqual(Object.fromEntries(parents), {
    whole: undefined,
    left: "whole",
    right: "whole",
    "left within": "left",
    "right within": "right",
    elsewhere: "later",
    later: undefined,
  });
});

test("each attempt of a job is a run of its own", async () => {
  const line = await freshLine();
  const job = (attempt: number, work: () => void) =>
    ledger.run(line, { name: "job", attempt }, work);
  await assert.rejects(
    job(1, () => {
      throw new TypeError();
    }),
  );
  await job(2, () => {});
  const runs = await runsOf(line);
  const { id, status } = runs["job/1"] as types.Run;
  const second = runs["job/2"] as types.Run;
  assert.deepEqual([status, second.status, second.retry_of], ["failed", "completed", id]);
});

test("a refused start lets the function run, and raises only where that is asked for", async () => {
  const line = await freshLine();
  await ledger.lines.pause(line, { reason: "Review" });
  const own = client();
  assert.equal(await own.ledger.run(line, undefined as never, () => 42), 42);
  assert.equal((await own.ledger.flush()).refused, 2);
  const codes = own.refusals.map(([fact, problem]) => [fact.type, problem.code]);
  assert.deepEqual(codes[0], ["run.started", "invalid_state"]);
  let ran = 0;
  const raised = own.ledger.run(line, { onRefused: "raise" }, () => (ran += 1));
  await assert.rejects(raised, { name: "Conflict", code: "invalid_state" });
  assert.equal(ran, 0);
  await ledger.lines.resume(line);
  let run: OpenRun | undefined;
  await own.ledger.run(line, { onRefused: "raise" }, (each) => (run = each));
  assert.match(run?.id ?? "", /^RUN-/);
  let isAway = true;
  const away = await new Server((asked) => {
    return isAway ? problem(503, "behind") : taken(asked);
  }).start();
  const late = client({ url: away.url, timeout: 0.2 }).ledger;
  assert.equal(await late.run(line, { onRefused: "raise" }, () => 43), 43);
  assert.deepEqual(await runsOf(line, own.ledger).then((runs) => Object.keys(runs).length), 1);
  isAway = false;
  assert.ok((await late.flush()).ok);
});

test("heartbeats keep a lease of a function that works, until it ends", async () => {
  const line = await freshLine();
  const door = await new Door().start();
  const { ledger } = client({ url: door.url, source });
  const beats = () => door.asked.filter(({ path }) => path.endsWith("/heartbeat")).length;
  await ledger.run(line, { name: "leased", lease: 5 }, async () => {
    for (let count = 1; beats() < (isLong ? 4 : 1); count += 1) await door.requests(count);
  });
  const runs = await runsOf(line, ledger);
  assert.deepEqual([runs["leased/1"]?.status, runs["leased/1"]?.lease_seconds], ["completed", 5]);
});

test("heartbeats go on after a failure, and stop when the run is over", async () => {
  const replies = [problem(503, "behind"), { status: 204 }, problem(409, "invalid_state")];
  const server = await new Server((asked) => {
    return asked.path.endsWith("/heartbeat") ? (replies.shift() ?? null) : taken(asked);
  }).start();
  const { ledger } = client({ url: server.url });
  await ledger.run("LIN-26-000001", { lease: 0.6 }, async () => {
    const [start] = await server.requests(4); // the start and three heartbeats
    assert.equal(JSON.parse(start?.body ?? "")[0].data.lease_seconds, 0.6);
    const waited = once(new EventTarget(), "none", { signal: AbortSignal.timeout(700) });
    await assert.rejects(waited, { name: "AbortError" });
  });
  assert.ok((await ledger.flush()).ok);
  const paths = server.asked.map(({ path }) => path.split("/").at(-1));
  assert.deepEqual(paths, ["batch", "heartbeat", "heartbeat", "heartbeat", "batch"]);
});

test("a heartbeat that was lost comes again sooner", { skip: !isLong }, async () => {
  const at: number[] = [];
  const server = await new Server((asked) => {
    if (!asked.path.endsWith("/heartbeat")) return taken(asked);
    return at.push(performance.now()) === 1 ? problem(503, "behind") : { status: 204 };
  }).start();
  await client({ url: server.url }).ledger.run("LIN-26-000001", { lease: 12 }, async () => {
    await server.requests(4);
  });
  const [lost, soon, next] = at as [number, number, number];
  assert.ok(soon - lost < 2_500 && next - soon > 3_500, `${at}`);
});

test("an error of reporting never reaches the function", async () => {
  const line = await freshLine();
  const circular: { self?: object } = {};
  circular.self = circular;
  const hostile = {
    toJSON() {
      throw new Error("no JSON");
    },
  };
  await ledger.run(line, { name: "bad", input: circular }, (run) => {
    run.output(hostile);
    run.tokens({ model: "small", input: -1 });
    run.tokens({ inputs: 5 } as object);
    run.tokens(Number.NaN);
    run.tokens(undefined as unknown as number);
    run.tokens({ model: "a\u0007b", input: 1 });
  });
  await ledger.run(line, { name: "large" }, (run) => run.output("x".repeat(300_000)));
  const runs = await runsOf(line);
  const { status, input, output, token_usage } = runs["bad/1"] as types.Run;
  assert.deepEqual([status, input, output], ["completed", null, null]);
  assert.deepEqual(
    token_usage?.map((row) => [row.model, row.input]),
    [["ab", 1]],
  );
  assert.deepEqual([runs["large/1"]?.status, runs["large/1"]?.output], ["completed", null]);
  assert.ok(
    said.some((each) => /The output of a run is not reported: The fact has 300/.test(each)),
  );
});

test("a function works at its own speed while the ledger is away", async () => {
  let isAway = true;
  const silent = await new Server((asked) => (isAway ? undefined : taken(asked))).start();
  const { ledger } = client({ url: silent.url });
  const began = performance.now();
  for (let at = 0; at < 100; at += 1) await ledger.run("LIN-26-000001", { lease: 5 }, () => at);
  assert.ok(performance.now() - began < 1_000);
  isAway = false;
  silent.cut();
  assert.ok((await ledger.flush()).ok);
});
