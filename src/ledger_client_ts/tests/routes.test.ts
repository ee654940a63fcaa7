import assert from "node:assert/strict";
import { test } from "node:test";
import { Invalid, type Ledger, LedgerError, NotFound } from "execution-ledger-client";
import { client, Door, freshLine } from "./support.js";

const NOW = Date.now();
const HOUR_AGO = new Date(NOW - 3_600_000);
const MONTH = HOUR_AGO.toISOString().slice(0, 7);
const ORGANIZATION = { organization_id: "ORG-26-000001", workspace_id: "WS-26-000001" };

/** A route that the test's ledger refuses or does not answer: only that it is asked counts. */
async function asked(called: Promise<unknown>): Promise<void> {
  await called.catch((error) => assert.ok(error instanceof LedgerError, error));
}

async function callLines(ledger: Ledger, line: string, capacity: string): Promise<void> {
  const why = await ledger.lines.why(line);
  assert.equal(`${why}`, `${line} is running since ${why.since.slice(0, 16).replace("T", " ")}Z.`);
  assert.equal(
    (await ledger.lines.list({ sort: "state_since" }).first())?.service_line_id.slice(0, 4),
    "LIN-",
  );
  assert.ok((await ledger.lines.summary()).total > 0);
  for await (const row of ledger.lines.export({ format: "csv" })) assert.ok(row);
  await ledger.lines.update(capacity, {
    name: "Invoices by night",
    project_tags: ["PROJ-26-000007"],
  });
  await ledger.lines.checkIn(capacity, { hours: 8 }, { id: `chk-${capacity}` });
  await ledger.lines.voidCheckIn(capacity, { fact_id: `chk-${capacity}`, reason: "twice" });
  await ledger.lines.checkIn(capacity, { hours: 1.5 }, { time: HOUR_AGO });
  await ledger.lines.allocate(capacity, "AGT-7", { type: "agent", role: "summariser" });
  const signal = { signal: "sla_compliance", status: "red", value: 0.31 } as const;
  await ledger.lines.signal(capacity, signal);
  await ledger.lines.block(line, { blocker_id: "POL-7", cause: "policy_violation", reason: "No" });
  const paused = await ledger.lines.pause(line, {
    reason: "Review",
    until: new Date(NOW + 9e6).toISOString(),
  });
  assert.equal(paused.state, "paused");
  assert.match(
    `${await ledger.lines.why(line)}`,
    /\nHold of the .*\nBlocker POL-7 \(policy_violation\): No\.$/,
  );
  const begun = await ledger.lines.history(line).first();
  const past = await ledger.lines.why(line, { as_of: begun?.recorded_at }, { minPosition: 1 });
  assert.deepEqual(past.blockers, []);
  await ledger.lines.resume(line);
  await ledger.lines.unblock(line, { blocker_id: "POL-7" });
  await ledger.lines.release(capacity, "AGT-7");
  await ledger.lines.hold(capacity, { reason: "Holiday" });
  await ledger.lines.releaseHold(capacity);
  const filter = { project_tag: ["PROJ-26-000007"] };
  await ledger.lines.pauseMany({ filter, reason: "Freeze" });
  await ledger.lines.resumeMany({ filter });
  assert.equal((await ledger.lines.usage(capacity)).total.hours, 1.5);
  assert.ok((await ledger.lines.timeline(capacity)).intervals.length);
  assert.ok((await ledger.lines.history(capacity).first())?.type);
  await ledger.directory.name("PROJ-26-000007", { name: "First project" });
  assert.ok((await ledger.directory.list({ type: "project" }).first())?.id);
  assert.ok((await ledger.directory.search({ q: "invoices" })).length);
  assert.ok(await ledger.directory.sources().first());
  await asked(ledger.directory.organizations().first());
}

const AGENT = { key: "gen_ai.operation.name", value: { stringValue: "invoke_agent" } };

async function callRuns(ledger: Ledger, line: string): Promise<void> {
  const { subject } = await ledger.runs.request(line, {
    triggered_by: { type: "user", actor_id: "alice" },
  });
  const run = subject as string;
  await ledger.runs.start(line, { lease_seconds: 600 }, { subject: run });
  await ledger.runs.heartbeat(run);
  await ledger.runs.complete(run, { output: { tasks: 14 }, tokens_used: 1_840 });
  await ledger.runs.correctUsage(run, { tokens_used: 1_850 });
  const { status, output, tokens_used } = await ledger.runs.get(run);
  assert.deepEqual([status, output, tokens_used], ["completed", { tasks: 14 }, 1_850]);
  for (const end of ["fail", "cancel"] as const) {
    await ledger.runs.start(line, { external_id: `${end}-${line}` });
    await ledger.runs[end](null, { external_id: `${end}-${line}` });
  }
  const found = [];
  const filters = { service_line_id: line, status: ["failed" as const, "cancelled" as const] };
  for await (const each of ledger.runs.list(filters)) found.push(each.external_id);
  assert.deepEqual(found.sort(), [`cancel-${line}`, `fail-${line}`]);
  assert.equal((await ledger.lines.runs(line, { status: "completed" }).first())?.id, run);
  const span = { traceId: "ab".repeat(16), spanId: "cd".repeat(8), attributes: [AGENT] };
  const spans = [{ scopeSpans: [{ spans: [span] }] }];
  const { partialSuccess } = await ledger.traces.report({ resourceSpans: spans });
  assert.equal(partialSuccess?.rejectedSpans, "1");
  for await (const row of ledger.runs.export({ from: `${MONTH}-01` }))
    assert.ok(JSON.parse(row).id);
  assert.ok((await ledger.runs.erase(run, { reason: "asked for" })).erased_at);
}

async function callSums(ledger: Ledger, line: string): Promise<void> {
  const month = { service_line_id: line, group_by: "service_line" };
  const row = await ledger.usage.month(MONTH, month).first();
  assert.deepEqual([row?.service_line_id, row?.hours], [line, 1.5]);
  assert.equal(
    (await ledger.usage.get({ from: `${MONTH}-01`, service_line_id: line })).total?.hours,
    1.5,
  );
  for await (const each of ledger.usage.export({ from: `${MONTH}-01` })) assert.ok(each);
  const compared = { then: HOUR_AGO, service_line_id: line };
  assert.equal((await ledger.compare.list(compared).first())?.service_line_id, line);
  assert.equal((await ledger.compare.get(compared)).rows.length, 1);
  for await (const each of ledger.compare.export(compared)) assert.ok(each);
  const period = { from: "2026-01-01", to: "2026-02-01", ...ORGANIZATION };
  const { id } = await ledger.statements.issue(period);
  assert.equal((await ledger.statements.list().first())?.id, id);
  assert.ok(await ledger.statements.get(id));
  assert.ok(await ledger.statements.changes(id));
  await asked(ledger.statements.bundle(id)); // not sealed yet
  for await (const each of ledger.statements.export(id)) assert.ok(each);
  await ledger.statements.withdraw(id, { reason: "a test" });
}

async function callWatches(ledger: Ledger): Promise<void> {
  const condition = { kind: "blocker_open" as const, causes: ["approval_gap" as const] };
  const { id } = await ledger.watches.create({ name: "Blocked", condition, for_seconds: 86_400 });
  assert.equal((await ledger.watches.list().first())?.name, "Blocked");
  assert.equal((await ledger.watches.update(id, { severity: "critical" })).severity, "critical");
  assert.equal((await ledger.watches.get(id)).condition.kind, "blocker_open");
  assert.ok((await ledger.watches.preview({ condition, for_seconds: 3_600 })).meta.count >= 0);
  assert.equal(await ledger.alerts.list({ watch_id: id }).first(), undefined);
  await assert.rejects(ledger.alerts.get("ALR-26-999999"), NotFound);
  await assert.rejects(ledger.alerts.acknowledge("ALR-26-999999", { note: "seen" }), NotFound);
  await asked(ledger.alerts.acknowledgeMany({ ids: ["ALR-26-999999"], note: "seen" }));
  for await (const row of ledger.alerts.export()) assert.ok(row);
  await ledger.watches.delete(id);
}

async function callFeeds(ledger: Ledger, line: string): Promise<void> {
  const filters = { service_line_id: line, type: "execution.checked_in" } as const;
  const event = await ledger.events.list(filters).first();
  assert.ok(event?.type === "execution.checked_in");
  assert.equal(event.payload.hours, 8);
  assert.deepEqual(await ledger.events.get(event.id), event);
  assert.ok((await ledger.events.types()).some(({ type }) => type === "execution.blocked"));
  assert.equal((await ledger.events.schema("execution.blocked")).type, "object");
  for await (const row of ledger.events.export(filters)) assert.ok(JSON.parse(row).id);
  const stop = new AbortController();
  const follower = ledger.events.follow({ ...filters, signal: stop.signal });
  const told = follower.onComplete(() => void ledger.lines.checkIn(line, { note: "streamed" }));
  for await (const each of told) if (each.payload.note === "streamed") stop.abort();

  const made = await ledger.webhooks.create({
    url: "http://127.0.0.1:9/",
    event_types: ["resource.released"], // by no test beside this one
  });
  assert.equal((await ledger.webhooks.update(made.id, { enabled: false })).enabled, false);
  assert.notEqual((await ledger.webhooks.rotateSecret(made.id)).secret, made.secret);
  assert.equal((await ledger.webhooks.get(made.id)).id, made.id);
  assert.ok(await ledger.webhooks.list().first());
  assert.equal(await ledger.webhooks.deliveries(made.id).first(), undefined);
  await asked(ledger.webhooks.test(made.id));
  await asked(ledger.webhooks.recover(made.id, { since: HOUR_AGO.toISOString() }));
  await asked(ledger.webhooks.resend(made.id, event.id));
  await ledger.webhooks.delete(made.id);
}

async function callAccess(ledger: Ledger): Promise<void> {
  assert.ok(await ledger.audit.list(ORGANIZATION).first());
  for await (const row of ledger.audit.export(ORGANIZATION)) assert.ok(JSON.parse(row).action);
  const made = await ledger.keys.create({ name: "reader", permissions: ["read"] });
  const reader = client({ token: made.key }).ledger;
  assert.equal((await reader.service.credential()).id, made.id);
  assert.notEqual((await ledger.keys.rotate(made.id, { grace_seconds: 0 })).key, made.key);
  assert.equal((await ledger.keys.update(made.id, { name: null })).name, null);
  assert.ok(await ledger.keys.list().first());
  await ledger.keys.revoke(made.id);
  assert.ok((await ledger.keys.get(made.id)).revoked_at);
  assert.equal(await ledger.sessions.list().first(), undefined);
  await assert.rejects(ledger.sessions.end("SES-0000000000000000"), NotFound);
  assert.ok((await ledger.service.credential()).permissions.includes("read"));
  assert.deepEqual(await ledger.service.health(), { status: "ok" });
  assert.ok(await ledger.service.readiness());
  assert.match(await ledger.service.metrics(), /^ledger_/m);
}

async function callProofs(ledger: Ledger): Promise<void> {
  await asked(ledger.proofs.checkpoint());
  assert.match(await ledger.proofs.key(), /\S/);
  await asked(ledger.proofs.entry(1));
  await asked(ledger.proofs.get({ position: 1 }));
  await asked(ledger.proofs.inclusion({ position: 1, size: 1 }));
  await asked(ledger.proofs.consistency({ from: 1, to: 1 }));
}

test("every route of the document is called against the live service", async () => {
  const door = await new Door().start();
  const { ledger, refusals } = client({ url: door.url });
  const line = await freshLine();
  const capacity = await freshLine("capacity");
  await callLines(ledger, line, capacity);
  await callRuns(ledger, line);
  await callSums(ledger, capacity);
  await callWatches(ledger);
  await callFeeds(ledger, capacity);
  await callAccess(ledger);
  await callProofs(ledger);
  await ledger.lines.close(line, { reason: "Done" });
  assert.equal((await ledger.lines.get(line)).state, "closed");
  ledger.report("execution.checked_in", capacity, { note: "In the background" });
  assert.ok((await ledger.flush()).ok);
  assert.deepEqual(refusals, []);
  const asFilter = { id: "LIN-26-000001", limit: 10_000 };
  await assert.rejects(ledger.lines.list({ limit: asFilter.limit }).first(), Invalid);

  const document = (await (await fetch(`${door.url}/openapi.json`)).json()) as {
    paths: Record<string, Record<string, unknown>>;
  };
  const called = new Set(door.asked.map(({ method, path }) => `${method} ${path.split("?")[0]}`));
  const missing = Object.entries(document.paths).flatMap(([path, methods]) => {
    const pattern = path.replace(
      /\{\w+\}/g,
      "(?!pause$|resume$|export$|summary$|stream$|preview$|acknowledge$)[^/]+",
    );
    return Object.keys(methods)
      .map((method) => `${method.toUpperCase()} ${pattern}`)
      .filter((each) => ![...called].some((one) => new RegExp(`^${each}$`).test(one)));
  });
  assert.deepEqual(missing, []);
  assert.ok(Object.keys(document.paths).length > 60);
});
