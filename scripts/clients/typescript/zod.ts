// A client made by openapi-zod-client, which checks what is sent and what is answered.

import { isAxiosError } from "axios";
import { createApiClient } from "./generated/zod";
import { activated, address, ensure, line, started, token } from "./told";

const ledger = createApiClient(address, {
  axiosConfig: {
    headers: { authorization: `Bearer ${token}` },
    paramsSerializer: { indexes: null },
  },
});

async function main(): Promise<void> {
  const one = await ledger.post("/v1/facts", activated);
  ensure(one.data.outcome === "recorded", "the fact is recorded");
  const batch = await ledger.post("/v1/facts/batch", [started, activated]);
  ensure(batch.data.map((item) => item.outcome).join() === "recorded,duplicate", "both are told");

  const list = await ledger.get("/v1/execution", {
    queries: { state: ["running", "idle"], limit: 100 },
  });
  ensure(list.data.some((row) => row.service_line_id === line), "the line is listed");
  const params = { line_id: line };
  const detail = await ledger.get("/v1/execution/:line_id", { params });
  ensure(detail.data.open_runs === 1, "one run is open");
  const events = await ledger.get("/v1/events", { queries: { service_line_id: line } });
  const first = events.data[0];
  ensure(first?.type === "execution.started", "the event is told by its type");
  ensure(first.payload.product_line === "agent_gateway", "its payload has the type's fields");

  const reason = { reason: "A client's test" };
  const paused = await ledger.post("/v1/execution/:line_id/pause", reason, { params });
  ensure(paused.data.state === "paused", "paused");
  const refusal: unknown = await ledger
    .post("/v1/execution/:line_id/pause", reason, { params })
    .catch((error: unknown) => error);
  ensure(isAxiosError<{ code: string }>(refusal), "a second pause is refused");
  ensure(refusal.response?.data.code === "invalid_state", "the problem tells why");
  const resumed = await ledger.post("/v1/execution/:line_id/resume", {}, { params });
  ensure(resumed.data.state === "running", "resumed");

  const made = await ledger.post("/v1/webhooks", {
    url: "https://1.1.1.1/",
    event_types: ["run.failed"],
  });
  const at = { params: { endpoint_id: made.data.id } };
  const changed = await ledger.patch("/v1/webhooks/:endpoint_id", { enabled: false }, at);
  ensure(!changed.data.enabled, "changed");
  ensure((await ledger.get("/v1/webhooks/:endpoint_id", at)).data.id === made.data.id, "shown");
  await ledger.delete("/v1/webhooks/:endpoint_id", undefined, at);
}

void main();
