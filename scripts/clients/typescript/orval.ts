// A client made by orval, with its fetch client.

import * as ledger from "./generated/orval";
import { activated, ensure, line, started } from "./told";

async function main(): Promise<void> {
  const one = await ledger.reportFacts(activated);
  ensure(one.status === 201, "the fact is recorded");
  const batch = await ledger.reportFactBatch([started]);
  ensure(batch.status === 200 && batch.data.data.length === 1, "the batch is answered by a list");

  const list = await ledger.listExecutions({ state: ["running", "idle"], limit: 100 });
  ensure(list.status === 200, "the lines are listed");
  ensure(list.data.data.some((row) => row.service_line_id === line), "the line is listed");
  const detail = await ledger.showExecution(line);
  ensure(detail.status === 200 && detail.data.data.open_runs === 1, "one run is open");
  const paused = await ledger.pauseExecution(line, { reason: "A client's test" });
  ensure(paused.status === 200 && paused.data.data.state === "paused", "paused");
  const resumed = await ledger.resumeExecution(line, {});
  ensure(resumed.status === 200 && resumed.data.data.state === "running", "resumed");
  const runs = await ledger.listExecutionRuns(line, { status: ["running", "failed"] });
  ensure(runs.status === 200 && runs.data.data.length === 1, "the run is listed");

  const made = await ledger.createWebhook({ url: "https://1.1.1.1/", event_types: ["*"] });
  ensure(made.status === 201, "the webhook is set up");
  const id = made.data.data.id;
  const changed = await ledger.updateWebhook(id, { description: "changed" });
  ensure(changed.status === 200 && changed.data.data.description === "changed", "changed");
  const shown = await ledger.showWebhook(id);
  ensure(shown.status === 200 && shown.data.data.id === id, "shown");
  ensure((await ledger.deleteWebhook(id)).status === 204, "removed");

  const checkpoint = await ledger.showCheckpoint();
  ensure(checkpoint.status === 200, "the checkpoint is shown");
  ensure(checkpoint.data.split("\n").length > 4, "the checkpoint is a signed note");
}

void main();
