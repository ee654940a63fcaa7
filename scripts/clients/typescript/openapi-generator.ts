// A client made by openapi-generator (typescript-fetch).

import * as ledger from "./generated/openapi-generator";
import { address, ensure, line, token } from "./told";

const settings = new ledger.Configuration({ basePath: address, accessToken: token });
const lines = new ledger.ExecutionApi(settings);

const activated: ledger.Fact = {
  specversion: "1.0",
  id: `${line}-activated`,
  source: "/clients",
  type: "service_line.activated",
  subject: line,
  data: {
    organizationId: "ORG-26-000001",
    workspaceId: "WS-26-000001",
    productLine: "agent_gateway",
    executionModel: "agent_runtime",
  },
};
const started: ledger.Fact = {
  specversion: "1.0",
  id: `${line}-run`,
  source: "/clients",
  type: "run.started",
  data: { serviceLineId: line },
};

async function main(): Promise<void> {
  const facts = new ledger.FactsApi(settings);
  const one = await facts.reportFacts({ fact: activated });
  ensure(one.data.outcome === "recorded", "the fact is recorded");
  const batch = await facts.reportFactBatch({ fact: [started, activated] });
  ensure(batch.data.map((item) => item.outcome).join() === "recorded,duplicate", "both are told");

  const list = await lines.listExecutions({ state: ["running", "idle"], limit: 100 });
  ensure(list.data.some((row) => row.serviceLineId === line), "the line is listed");
  ensure((await lines.showExecution({ lineId: line })).data.openRuns === 1, "one run is open");
  const runs = new ledger.RunsApi(settings);
  const running = await runs.listExecutionRuns({ lineId: line, status: ["running", "failed"] });
  ensure(running.data.length === 1, "the run is listed");
  const events = await new ledger.FeedsApi(settings).listEvents({ serviceLineId: line });
  const first = events.data[0];
  ensure(first?.type === "execution.started", "the event is told by its type");
  ensure(first.payload.productLine === "agent_gateway", "its payload has the type's fields");

  const pausing = { reason: "A client's test" };
  const paused = await lines.pauseExecution({ lineId: line, pausing });
  ensure(paused.data.state === "paused", "paused");
  const refusal: unknown = await lines.pauseExecution({ lineId: line, pausing }).catch((e) => e);
  ensure(refusal instanceof ledger.ResponseError, "a second pause is refused");
  const problem = ledger.ProblemFromJSON(await refusal.response.json());
  ensure(problem.code === "invalid_state", "the problem tells why");
  const resumed = await lines.resumeExecution({ lineId: line });
  ensure(resumed.data.state === "running", "resumed");

  const webhooks = new ledger.WebhooksApi(settings);
  const made = await webhooks.createWebhook({
    newWebhook: { url: "https://1.1.1.1/", eventTypes: new Set(["run.failed"]) },
  });
  const at = { endpointId: made.data.id };
  const webhookChanges = { eventTypes: new Set([ledger.EventTypeOrEvery.Star]), enabled: false };
  const changed = await webhooks.updateWebhook({ ...at, webhookChanges });
  ensure(changed.data.eventTypes.join() === "*", "changed");
  ensure((await webhooks.showWebhook(at)).data.id === made.data.id, "shown");
  await webhooks.deleteWebhook(at);

  const note = await new ledger.ProofApi(settings).showCheckpoint();
  ensure(note.split("\n").length > 4, "the checkpoint is a signed note");
}

void main();
