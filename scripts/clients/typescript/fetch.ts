// A client made by openapi-typescript, with openapi-fetch.

import createClient from "openapi-fetch";
import type { paths } from "./generated/schema";
import { activated, address, ensure, line, present, started, token } from "./told";

const client = createClient<paths>({
  baseUrl: address,
  headers: { authorization: `Bearer ${token}` },
});

async function main(): Promise<void> {
  const one = await client.POST("/v1/facts", { body: activated });
  const single = present(one.data, one.error, "a fact").data;
  ensure(single.outcome === "recorded", "the fact is recorded");

  const batch = await client.POST("/v1/facts/batch", {
    body: [
      started,
      {
        specversion: "1.0",
        id: `${line}-unblocked`,
        source: "/clients",
        type: "execution.unblocked",
        subject: line,
        data: { blocker_id: "none" },
      },
    ],
  });
  const items = present(batch.data, batch.error, "a batch").data;
  ensure(items.map((item) => item.outcome).join() === "recorded,refused", "both have an outcome");
  ensure(items[1]?.error?.status === 409, "the refused fact tells why");

  const list = await client.GET("/v1/execution", {
    params: { query: { state: ["running", "idle"], workspace_id: ["WS-26-000001"], limit: 100 } },
  });
  const rows = present(list.data, list.error, "a list").data;
  ensure(rows.some((row) => row.service_line_id === line && row.state === "running"), "listed");

  const path = { line_id: line };
  const detail = await client.GET("/v1/execution/{line_id}", { params: { path } });
  ensure(present(detail.data, detail.error, "a detail").data.open_runs === 1, "one run is open");

  const body = { reason: "A client's test" };
  const paused = await client.POST("/v1/execution/{line_id}/pause", { params: { path }, body });
  ensure(present(paused.data, paused.error, "a pause").data.state === "paused", "paused");
  const resumed = await client.POST("/v1/execution/{line_id}/resume", {
    params: { path, header: { "Idempotency-Key": `${line}-resume` } },
    body: {},
  });
  ensure(present(resumed.data, resumed.error, "a resume").data.state === "running", "resumed");

  const runs = await client.GET("/v1/execution/{line_id}/runs", {
    params: { path, query: { status: ["running", "failed"] } },
  });
  ensure(present(runs.data, runs.error, "the runs").data.length === 1, "the run is listed");

  const made = await client.POST("/v1/webhooks", {
    body: { url: "https://1.1.1.1/", event_types: ["run.failed"] },
  });
  const endpoint = present(made.data, made.error, "a webhook").data;
  ensure(endpoint.secret?.startsWith("whsec_") ?? false, "the secret is shown");
  const at = { params: { path: { endpoint_id: endpoint.id } } };
  const changed = await client.PATCH("/v1/webhooks/{endpoint_id}", {
    ...at,
    body: { event_types: ["*"], enabled: false },
  });
  ensure(!present(changed.data, changed.error, "a change").data.enabled, "changed");
  const shown = await client.GET("/v1/webhooks/{endpoint_id}", at);
  ensure(present(shown.data, shown.error, "a webhook").data.event_types[0] === "*", "shown");
  const removed = await client.DELETE("/v1/webhooks/{endpoint_id}", at);
  ensure(removed.response.status === 204, "removed");

  const checkpoint = await client.GET("/v1/log/checkpoint", { parseAs: "text" });
  const note = present(checkpoint.data, checkpoint.error, "a checkpoint");
  ensure(note.split("\n").length > 4, "the checkpoint is a signed note");

  // @ts-expect-error A misspelt word does not compile.
  const wrong = await client.GET("/v1/execution", { params: { query: { state: ["halted"] } } });
  ensure(wrong.error?.code === "invalid_request", "the problem is typed");
}

void main();
