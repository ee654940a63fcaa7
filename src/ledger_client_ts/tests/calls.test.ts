import assert from "node:assert/strict";
import { test } from "node:test";
import * as sdk from "execution-ledger-client";
import { client, freshLine, problem, Server, type Asked, type Reply } from "./support.js";

const CLASSES = {
  400: sdk.BadRequest,
  401: sdk.Unauthorized,
  403: sdk.Forbidden,
  404: sdk.NotFound,
  409: sdk.Conflict,
  413: sdk.TooLarge,
  422: sdk.Invalid,
  429: sdk.RateLimited,
  500: sdk.Fault,
  502: sdk.Fault,
  503: sdk.Unavailable,
  504: sdk.Fault,
  418: sdk.Problem,
};

const COUNTS = { total: 0, by_state: {}, by_execution_model: {} };
const GOOD = { status: 200, body: { data: COUNTS } };
const LINE = { id: "RUN-26-000001", service_line_id: "LIN-26-000001", execution_model: "capacity" };
const SHOWN = { status: 200, body: { data: LINE } };

/** A server that gives these answers, one after the other, and the last one for ever. */
async function answering(...replies: Reply[]): Promise<Server> {
  let at = 0;
  return new Server(() => replies[Math.min(at++, replies.length - 1)]).start();
}

function to(server: Server, timeout = 30): sdk.Ledger {
  return client({ url: server.url, timeout }).ledger;
}

test("each status is an error of its own class", async () => {
  const thrown = Object.entries(CLASSES).map(async ([status, kind]) => {
    const later = { "retry-after": "60" }; // beyond the timeout: none is tried again
    const ledger = to(await answering(problem(Number(status), "some_code", later)));
    await assert.rejects(ledger.lines.get("LIN-26-000001"), (error: sdk.Problem) => {
      assert.equal(error.constructor, kind);
      assert.equal(error.name, kind.name);
      const { code, detail, title, requestId } = error;
      assert.deepEqual(
        { code, detail, title, requestId, status: error.status },
        {
          code: "some_code",
          detail: "No.",
          title: "No",
          requestId: "r-1",
          status: Number(status),
        },
      );
      return error instanceof sdk.LedgerError && error instanceof Error;
    });
  });
  await Promise.all(thrown);
});

test("a refusal of the ledger names the place at fault", async () => {
  const { ledger } = client();
  const line = await freshLine();
  await assert.rejects(ledger.lines.checkIn(line, { hours: -1 }), (error: sdk.Invalid) => {
    assert.ok(error instanceof sdk.Invalid);
    assert.deepEqual(
      error.errors.map((place) => place.pointer),
      ["/data/hours"],
    );
    assert.match(error.message, /^422 invalid_request: .* \/data\/hours: .*\(request \w+\)$/);
    return true;
  });
  await assert.rejects(ledger.lines.resume(line), { name: "Conflict", code: "invalid_state" });
  await assert.rejects(ledger.lines.get("LIN-26-999999"), sdk.NotFound);
  await assert.rejects(ledger.lines.list({ cursor: "none" }).first(), sdk.BadRequest);
  const stranger = client({ token: "elk_unknown" }).ledger;
  await assert.rejects(stranger.lines.list().first(), sdk.Unauthorized);
});

test("a passing failure is tried again, also after a lost answer", async () => {
  for (const reply of [problem(408, "slow"), problem(429, "busy"), problem(503, "behind"), null]) {
    const server = await answering(reply, GOOD, SHOWN);
    const ledger = to(server);
    assert.deepEqual(await ledger.lines.summary(), COUNTS);
    await ledger.lines.pause("LIN-26-000001", { reason: "Review" });
    assert.equal(server.asked.length, 3);
  }
});

test("a command keeps its key, and a fact its id, when they are sent again", async () => {
  const server = await answering(null, problem(503, "behind"), SHOWN);
  const ledger = to(server);
  await ledger.lines.pause("LIN-26-000001", { reason: "Review" });
  const keys = server.asked.map(({ headers }) => headers["idempotency-key"]);
  assert.equal(keys.length, 3);
  assert.match(keys[0] as string, /^[0-9a-f]{32}$/);
  assert.equal(new Set(keys).size, 1);
  await ledger.lines.resume("LIN-26-000001", {}, { idempotencyKey: "mine" });
  assert.equal(server.asked.at(-1)?.headers["idempotency-key"], "mine");

  const item = { outcome: "recorded", error: null };
  const facts = await answering(null, { status: 201, body: { data: item } });
  await to(facts).lines.checkIn("LIN-26-000001", { hours: 1 });
  const [first, second] = facts.asked;
  assert.equal(first?.body, second?.body);
  const { specversion, id, source, time } = JSON.parse(first?.body ?? "");
  assert.deepEqual([specversion, source, !!id, !!time], ["1.0", "/tests", true, true]);
});

test("a DELETE whose answer was lost is not sent again", async () => {
  for (const reply of [null, problem(503, "behind")]) {
    const server = await answering(reply);
    await assert.rejects(to(server).webhooks.delete("WHK-26-000001"), sdk.LedgerError);
    assert.equal(server.asked.length, 1);
  }
  const busy = await answering(problem(429, "busy"), { status: 204 });
  await to(busy).webhooks.delete("WHK-26-000001");
  assert.equal(busy.asked.length, 2);

  const later = await answering({ status: 204 });
  const { url } = later;
  const port = Number(new URL(url).port);
  await later.stop(); // nothing was sent: the connection is refused
  const deleted = client({ url }).ledger.webhooks.delete("WHK-26-000001");
  await assert.rejects(fetch(url)); // so that one was refused too
  const back = await new Server(() => ({ status: 204 })).start(port);
  await deleted;
  assert.equal(back.asked.length, 1);
});

test("a failure that stays is thrown at once", async () => {
  const stays = [problem(503, "read_only"), problem(500, "fault"), problem(409, "invalid_state")];
  for (const reply of stays) {
    const server = await answering(reply);
    await assert.rejects(to(server).lines.pause("LIN-26-000001", { reason: "No" }), sdk.Problem);
    assert.equal(server.asked.length, 1);
  }
});

test("Retry-After is obeyed, within the timeout", async () => {
  const server = await answering(problem(429, "busy", { "retry-after": "1" }), GOOD);
  const began = performance.now();
  await to(server).lines.summary();
  assert.ok(performance.now() - began >= 1000);
  const slow = await answering(problem(503, "behind", { "retry-after": "60" }));
  const refused = to(slow, 5).lines.summary();
  await assert.rejects(refused, { name: "Unavailable", retryAfter: 60 });
  assert.equal(slow.asked.length, 1);
});

test("a call ends with its timeout, and with its signal", async () => {
  const silent = await new Server(() => {}).start();
  await assert.rejects(to(silent, 0.3).lines.summary(), sdk.NotReachable);
  const half = await new Server((_, response) => void response.writeHead(200).write("{")).start();
  await assert.rejects(to(half, 0.3).lines.summary(), sdk.NotReachable);
  const stop = new AbortController();
  const called = to(silent).lines.summary({}, { signal: stop.signal });
  stop.abort();
  await assert.rejects(called, { name: "AbortError" });
  const waits = to(await answering(problem(503, "behind", { "retry-after": "20" })));
  const paused = waits.lines.summary({}, { signal: AbortSignal.timeout(200) });
  await assert.rejects(paused, { name: "TimeoutError" });
});

test("filters reach the service as the API has them", async () => {
  const empty = { status: 200, body: { data: [], meta: { cursor: null, has_more: false } } };
  const server = await answering(empty);
  const ledger = to(server);
  const then = new Date("2026-04-01T00:00:00Z");
  const query = { state: ["idle" as const, "blocked" as const], as_of: then, limit: 2 };
  await ledger.lines.list({ ...query, overdue: undefined }, { minPosition: 7 }).first();
  const [asked] = server.asked as [Asked];
  const asked_for = new URL(asked.path, server.url).searchParams;
  const given = { state: "idle,blocked", as_of: "2026-04-01T00:00:00.000Z", limit: "2" };
  assert.deepEqual(Object.fromEntries(asked_for), given);
  assert.equal(asked.headers["ledger-min-position"], "7");
});

test("an id never leads to another path", async () => {
  const server = await answering(problem(404, "not_found"));
  const ledger = to(server);
  for (const id of ["", ".", "..", undefined as unknown as string]) {
    assert.throws(() => ledger.lines.history(id), RangeError);
    await assert.rejects(async () => ledger.lines.get(id), RangeError);
  }
  await assert.rejects(ledger.lines.get("../keys?a=b#c"), sdk.NotFound);
  assert.deepEqual(
    server.asked.map((each) => each.path),
    ["/v1/execution/..%2Fkeys%3Fa%3Db%23c"],
  );
});

test("a list that is left early asks for no further page", async () => {
  const line = await freshLine("capacity");
  const { ledger } = client();
  for (const hours of [1, 2, 3]) await ledger.lines.checkIn(line, { hours });
  const pages = [];
  for await (const page of ledger.lines.history(line, { limit: 2 }).pages())
    pages.push(page.data.length);
  assert.deepEqual(pages, [2, 2]);
  const row = { service_line_id: line };
  const page = { data: [row, row], meta: { cursor: "next", has_more: true } };
  const server = await answering({ status: 200, body: page });
  for await (const found of to(server).lines.list()) {
    assert.equal(found.service_line_id, line);
    break;
  }
  assert.equal(server.asked.length, 1);
});

test("an export of any length comes line by line, and can be left", async () => {
  const { ledger } = client();
  const line = await freshLine("capacity");
  await ledger.lines.checkIn(line, { hours: 1 });
  const rows = [];
  for await (const row of ledger.events.export({ service_line_id: line }))
    rows.push(JSON.parse(row));
  assert.deepEqual(
    rows.map((row) => row.type),
    ["execution.started", "execution.checked_in"],
  );

  const MEGABYTE = `${"x".repeat(2 ** 20 - 1)}\n`;
  let sent = 0;
  const large = await new Server((_, response) => {
    const write = () => {
      while (sent < 300 && !response.destroyed && response.write(MEGABYTE)) sent += 1;
    };
    response.on("drain", write);
    write();
  }).start();
  for await (const row of to(large).events.export()) {
    assert.equal(row.length, MEGABYTE.length - 1);
    break;
  }
  assert.ok(sent < 100, `${sent} MiB were read`);

  const broken = await new Server((_, response) => {
    response.writeHead(200, { "content-length": "100" });
    response.write("half\n", () => response.destroy());
  }).start();
  const read: string[] = [];
  await assert.rejects(async () => {
    for await (const row of to(broken).events.export()) read.push(row);
  }, sdk.NotReachable);
});

test("a ledger without address or token says what is missing", () => {
  const given = { url: "http://ledger.test/prefix/", token: "elk_secret" };
  assert.throws(() => new sdk.Ledger(), {
    name: "NotConfigured",
    message: /ELK_URL and ELK_TOKEN/,
  });
  for (const url of ["ftp://ledger.test", "http://user:pass@ledger.test", "ledger.test"]) {
    assert.throws(() => new sdk.Ledger({ ...given, url }), sdk.NotConfigured);
  }
  assert.throws(() => new sdk.Ledger({ ...given, token: "elk\nx" }), sdk.NotConfigured);
  Object.assign(process.env, { ELK_URL: given.url, ELK_TOKEN: given.token, ELK_SOURCE: "/jobs" });
  const ledger = new sdk.Ledger();
  for (const name of ["ELK_URL", "ELK_TOKEN", "ELK_SOURCE"]) delete process.env[name];
  const shown =
    JSON.stringify(ledger) + Object.values(ledger.lines).map((each) => JSON.stringify(each));
  assert.match(shown, /"url":"http:\/\/ledger.test\/prefix","source":"\/jobs"/);
  assert.doesNotMatch(shown, /elk_secret/);
});

test("fields and types that the API does not have do not compile", async () => {
  const { ledger } = client();
  const compiled = async () => {
    // @ts-expect-error: a misspelled filter
    ledger.lines.list({ stat: ["blocked"] });
    // @ts-expect-error: a word that the enumeration does not have
    ledger.lines.list({ state: ["stuck"] });
    // @ts-expect-error: a field of another fact
    ledger.report("execution.checked_in", "LIN-26-000001", { cause: "policy_violation" });
    // @ts-expect-error: no fact
    ledger.report({ type: "execution.idle", subject: "LIN-26-000001" });
    for await (const event of ledger.events.follow({ type: ["execution.blocked"] })) {
      const cause: sdk.types.Cause = event.payload.cause;
      // @ts-expect-error: an event of another type
      assert.ok(cause && event.payload.hours);
    }
    const event = await ledger.events.get("EVT-26-000001");
    if (event.type === "run.failed") assert.ok(event.payload.late);
  };
  assert.equal(typeof compiled, "function");
});
