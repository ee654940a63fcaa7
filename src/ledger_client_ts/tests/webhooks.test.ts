import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { test } from "node:test";
import { NotVerified, webhooks } from "execution-ledger-client";
import { client, Server } from "./support.js";

const SECRET = `whsec_${Buffer.from("a secret of 24 octets ...").toString("base64")}`;
const BODY = JSON.stringify({
  id: "EVT-26-000001",
  type: "execution.blocked",
  payload: { ü: "…" },
});
const NOW = new Date("2026-11-30T12:00:00Z");
const SENT = String(NOW.getTime() / 1000);

function signed(body: string, secret = SECRET, time = SENT): Record<string, string> {
  const key = Buffer.from(secret.slice(6), "base64");
  const signature = createHmac("sha256", key).update(`msg_1.${time}.${body}`).digest("base64");
  const headers = { "webhook-id": "msg_1", "webhook-timestamp": time };
  return { ...headers, "webhook-signature": `v1,${signature}` };
}

function refuses(told: RegExp) {
  return (error: unknown) => error instanceof NotVerified && told.test(error.message);
}

test("a signed delivery gives its event", async () => {
  const headers = signed(BODY);
  const capitals = { "Webhook-Id": "msg_1", "Webhook-Timestamp": [SENT] };
  const node = { ...capitals, "WEBHOOK-SIGNATURE": headers["webhook-signature"] };
  for (const given of [headers, new Headers(headers), node]) {
    for (const body of [BODY, new TextEncoder().encode(BODY), Buffer.from(BODY)]) {
      const event = await webhooks.verify(body, given, SECRET, { now: NOW });
      assert.equal(event.id, "EVT-26-000001");
    }
  }
  const whole = JSON.stringify({ specversion: "1.0", data: JSON.parse(BODY) });
  const event = await webhooks.verify(whole, signed(whole), SECRET, { now: NOW });
  assert.equal(event.type, "execution.blocked");
});

test("a signature of the reference library holds", async () => {
  const signature = "v1,wZl+7brW8RBUGWADJsGln1QWLkTHbUqUyE81ppHcXqk=";
  const headers = { ...signed(BODY), "webhook-signature": signature };
  assert.ok(await webhooks.verify(BODY, headers, SECRET, { now: NOW }));
});

test("a delivery holds by one of several secrets and signatures", async () => {
  const other = `whsec_${Buffer.from("another secret of 30 octets ..").toString("base64")}`;
  const headers = signed(BODY);
  headers["webhook-signature"] = `v1a,AAAA v1,!!! v1,AAAA ${headers["webhook-signature"]}`;
  await webhooks.verify(BODY, headers, [other, SECRET], { now: NOW });
  await assert.rejects(
    webhooks.verify(BODY, headers, other, { now: NOW }),
    refuses(/No signature/),
  );
  await assert.rejects(webhooks.verify(BODY, headers, [], { now: NOW }), refuses(/No signature/));
});

test("a delivery that was changed is refused", async () => {
  const headers = signed(BODY);
  const verified = (body: string, more: object, secret = SECRET, now = NOW) =>
    webhooks.verify(body, { ...headers, ...more }, secret, { now });
  await assert.rejects(verified(BODY.replace("blocked", "idle"), {}), refuses(/No signature/));
  await assert.rejects(verified(BODY, { "webhook-id": "msg_2" }), refuses(/No signature/));
  const later = { "webhook-timestamp": String(Number(SENT) + 1) };
  await assert.rejects(verified(BODY, later), refuses(/No signature/));
  const v2 = { "webhook-signature": headers["webhook-signature"]?.replace("v1,", "v2,") };
  await assert.rejects(verified(BODY, v2), refuses(/No signature/));
  for (const name of Object.keys(headers)) {
    await assert.rejects(verified(BODY, { [name]: undefined }), refuses(/missing/));
  }
  await assert.rejects(verified(BODY, { "webhook-timestamp": "now" }), refuses(/missing/));
  await assert.rejects(verified(BODY, {}, "whsec_?"), refuses(/base64/));
  await assert.rejects(verified(BODY, {}, ""), refuses(/base64/));
  const noEvents = ["", "null", "[]", '"specversion"', "{}", '{"specversion":"1.0"}'];
  for (const body of noEvents) {
    const given = webhooks.verify(body, signed(body), SECRET, { now: NOW });
    await assert.rejects(given, refuses(/no event/), body);
  }
});

test("a delivery counts for five minutes, by either clock", async () => {
  for (const seconds of [-300, 300]) {
    const now = new Date(NOW.getTime() + seconds * 1000);
    await webhooks.verify(BODY, signed(BODY), SECRET, { now });
    const beyond = new Date(now.getTime() + Math.sign(seconds) * 1000);
    const verified = webhooks.verify(BODY, signed(BODY), SECRET, { now: beyond });
    await assert.rejects(verified, refuses(/too long ago/));
  }
  await assert.rejects(webhooks.verify(BODY, signed(BODY), SECRET), refuses(/too long ago/));
});

test("a delivery of the service itself holds by the endpoint's secret", async () => {
  const { ledger } = client();
  const receiver = await new Server(() => ({ status: 204 })).start();
  const types = ["execution.blocked"] as const;
  const made = await ledger.webhooks.create({ url: receiver.url, event_types: [...types] });
  await ledger.webhooks.test(made.id);
  const [delivery] = await receiver.requests(1);
  assert.ok(delivery && made.secret);
  const event = await ledger.webhooks.verify(delivery.body, delivery.headers, made.secret);
  assert.equal(event.type as string, "webhook.test");
  await ledger.webhooks.delete(made.id);
});
