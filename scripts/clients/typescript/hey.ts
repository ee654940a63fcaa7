// A client made by @hey-api/openapi-ts.

import { client } from "./generated/hey/client.gen";
import * as ledger from "./generated/hey/sdk.gen";
import { activated, address, ensure, line, present, started, token } from "./told";

client.setConfig({ baseUrl: address, auth: token });

async function main(): Promise<void> {
  const one = await ledger.reportFacts({ body: activated });
  const single = present(one.data, one.error, "a fact").data;
  ensure(single.outcome === "recorded", "the fact is recorded");

  const batch = await ledger.reportFactBatch({ body: [started] });
  const items = present(batch.data, batch.error, "a batch").data;
  ensure(items[0]?.outcome === "recorded", "the batch is recorded");

  const list = await ledger.listExecutions({ query: { state: ["running", "idle"], limit: 100 } });
  const rows = present(list.data, list.error, "a list").data;
  ensure(rows.some((row) => row.service_line_id === line && row.state === "running"), "listed");

  const path = { line_id: line };
  const detail = await ledger.showExecution({ path });
  ensure(present(detail.data, detail.error, "a detail").data.open_runs === 1, "one run is open");
  const paused = await ledger.pauseExecution({ path, body: { reason: "A client's test" } });
  ensure(present(paused.data, paused.error, "a pause").data.state === "paused", "paused");
  const resumed = await ledger.resumeExecution({ path });
  ensure(present(resumed.data, resumed.error, "a resume").data.state === "running", "resumed");
  const runs = await ledger.listExecutionRuns({ path, query: { status: ["running", "failed"] } });
  ensure(present(runs.data, runs.error, "the runs").data.length === 1, "the run is listed");

  const made = await ledger.createWebhook({
    body: { url: "https://1.1.1.1/", event_types: ["run.failed", "run.completed"] },
  });
  const endpoint = present(made.data, made.error, "a webhook").data;
  const at = { endpoint_id: endpoint.id };
  const changed = await ledger.updateWebhook({ path: at, body: { enabled: false } });
  ensure(!present(changed.data, changed.error, "a change").data.enabled, "changed");
  const shown = await ledger.showWebhook({ path: at });
  ensure(present(shown.data, shown.error, "a webhook").data.event_types.length === 2, "shown");
  ensure((await ledger.deleteWebhook({ path: at })).response?.status === 204, "removed");

  const checkpoint = await ledger.showCheckpoint();
  const note = present(checkpoint.data, checkpoint.error, "a checkpoint");
  ensure(note.split("\n").length > 4, "the checkpoint is a signed note");
}

void main();
