import assert from "node:assert/strict";
import { test } from "node:test";
import { LedgerError, NotFound, UnexpectedAnswer, type Ledger } from "execution-ledger-client";
import {
  client,
  Door,
  freshLine,
  passOn,
  problem,
  quiet,
  Server,
  STRANGE,
  taken,
  type Reply,
} from "./support.js";

const said = quiet();
const PAGE = STRANGE[0] as Reply;

/** Calls of each kind of answers. */
const CALLS: Record<string, (ledger: Ledger) => Promise<unknown>> = {
  "an object": (ledger) => ledger.lines.get("LIN-26-000001"),
  "a list": (ledger) => ledger.lines.list().first(),
  "an array": (ledger) => ledger.directory.search({ q: "a" }),
  "a whole document": (ledger) => ledger.usage.get(),
  "a fact": (ledger) => ledger.lines.checkIn("LIN-26-000001", { hours: 1 }),
  facts: (ledger) => ledger.send([{ type: "execution.checked_in", subject: "LIN-26-000001" }]),
  "a check": (ledger) => ledger.check(),
  "events up to now": (ledger) => ledger.events.follow().upToNow().next(),
};

test("an answer of something else than a ledger is an error that repeats nothing of it", async () => {
  for (const strange of STRANGE) {
    const { status, media } = strange;
    const server = await new Server(() => strange).start();
    const { ledger } = client({ url: server.url });
    for (const [kind, call] of Object.entries(CALLS)) {
      // An array of words is an array.
      if (kind === "an array" && strange.text === "[]") continue;
      await assert.rejects(call(ledger), (error: UnexpectedAnswer) => {
        assert.ok(error instanceof UnexpectedAnswer && error instanceof LedgerError, `${error}`);
        assert.deepEqual([error.status, error.contentType], [status, media], kind);
        const told = media ? `${status}, ${media}` : `${status}`;
        assert.equal(
          error.message,
          `${server.url} has not answered as a ledger does (${told}): is the address right?`,
        );
        assert.ok(!`${error.stack}${JSON.stringify(error)}`.includes("secret"));
        return error.cause === undefined;
      });
    }
    assert.equal(server.asked.length, Object.keys(CALLS).length); // none again, none elsewhere
  }
});

test("a page is no text, no file and no answer without a body", async () => {
  const server = await new Server(() => PAGE).start();
  const { ledger } = client({ url: server.url });
  const calls = [
    () => ledger.proofs.checkpoint(),
    () => ledger.proofs.entry(1),
    () => ledger.events.export().pieces().next(),
    () => ledger.webhooks.delete("WHK-26-000001"),
    () => ledger.runs.heartbeat("RUN-26-000001"),
  ];
  for (const call of calls) await assert.rejects(call, UnexpectedAnswer);
});

test("a problem document stays a problem, whatever its media type", async () => {
  const plain = await new Server(() => problem(404, "not_found")).start();
  const bare = { status: 404, text: "{}", headers: { "content-type": "application/problem+json" } };
  const own = await new Server(() => bare).start();
  for (const { url } of [plain, own]) {
    await assert.rejects(client({ url }).ledger.lines.get("LIN-26-000001"), NotFound);
  }
});

test("facts wait while something else answers, as in an outage", async () => {
  const replies: Reply[] = [...STRANGE];
  replies.push({ status: 200, body: { data: [] } }, { status: 200, body: { data: [{}, {}] } });
  const { length } = replies;
  const server = await new Server((asked) => replies.shift() ?? taken(asked)).start();
  const { ledger, refusals } = client({ url: server.url });
  for (const note of ["one", "two"]) {
    ledger.report("execution.checked_in", "LIN-26-000001", { note });
  }
  let flushed = await ledger.flush(0.1);
  while (flushed.waiting) flushed = await ledger.flush(0.1); // each ends a pause
  assert.deepEqual(flushed, { recorded: 2, refused: 0, waiting: 0, ok: true });
  assert.deepEqual(refusals, []);
  assert.equal(server.asked.length, length + 1);
  assert.equal(new Set(server.asked.map(({ body }) => body)).size, 1);
  assert.ok(said.some((each) => /2 wait: http.* has not answered as a ledger does/.test(each)));
});

test("a follower throws for its first answer, and waits at later ones", async () => {
  const line = await freshLine();
  const door = await new Door().start();
  const { ledger } = client({ url: door.url });
  let isAway = true;
  door.shut = () => {
    const reply = isAway ? null : PAGE;
    isAway = false;
    return reply; // an outage is no answer
  };
  await assert.rejects(ledger.events.follow().upToNow().next(), UnexpectedAnswer);
  isAway = true;
  await assert.rejects(async () => {
    for await (const _ of ledger.events.follow()) assert.fail("an event");
  }, UnexpectedAnswer);

  door.shut = null;
  const stop = new AbortController();
  const filters = { service_line_id: line, signal: stop.signal };
  const follower = ledger.events.follow(filters);
  const pages = () => door.asked.filter(({ path }) => path.startsWith("/v1/events?")).length;
  let between: Reply[] = [];
  follower.onComplete(() => {
    if (between.length) return;
    // The stream, then the pages are answered by something else.
    between = [PAGE, PAGE, { status: 401, text: "no", headers: { "content-type": "text/plain" } }];
    const before = pages();
    door.shut = () => {
      const reply = between.shift() ?? null;
      if (!between.length) door.shut = null;
      if (door.shut === null) {
        assert.ok(pages() > before);
        void client().ledger.lines.checkIn(line, { note: "after" });
      }
      return reply;
    };
  });
  for await (const event of follower) {
    if (event.type === "execution.checked_in") stop.abort();
  }
  assert.equal(door.shut, null);
});

test("a stream whose data is no event is an answer of something else, and is waited out", async () => {
  const line = await freshLine();
  const door = await new Door().start();
  const strange = ["{}", "no JSON"].map((data) => ({
    status: 200,
    text: `data: ${data}\n\n`,
    headers: { "content-type": "text/event-stream" },
  }));
  door.shut = (asked, response) => {
    const reply = asked.path.startsWith("/v1/events/stream") ? strange.shift() : undefined;
    if (reply && !strange.length) void client().ledger.lines.checkIn(line, { note: "after" });
    return reply ?? passOn(asked, response);
  };
  const types: string[] = [];
  for await (const event of client({ url: door.url }).ledger.events.follow({
    service_line_id: line,
  })) {
    types.push(event.type);
    if (event.type === "execution.checked_in") break;
  }
  assert.deepEqual(types, ["execution.started", "execution.checked_in"]);
});
