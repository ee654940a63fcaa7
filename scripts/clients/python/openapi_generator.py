"""A client made by openapi-generator (``python``) reports, reads and manages."""

import os
import sys

import ledger_openapi.models as said
from ledger_openapi import ApiClient, Configuration
from ledger_openapi.api import ExecutionApi, FactsApi, FeedsApi, ProofApi, RunsApi, WebhooksApi
from ledger_openapi.exceptions import ConflictException

line = sys.argv[1]
client = ApiClient(Configuration(host=os.environ["LEDGER"], access_token=os.environ["TOKEN"]))
lines = ExecutionApi(client)


def report() -> None:
    """Report a fact, and a batch."""
    activated = said.ServiceLineActivatedFact(
        specversion="1.0",
        id=f"{line}-activated",
        source="/clients",
        type="service_line.activated",
        subject=line,
        data=said.ServiceLineActivated(
            organization_id="ORG-26-000001",
            workspace_id="WS-26-000001",
            product_line=said.ProductLine.AGENT_GATEWAY,
            execution_model=said.ExecutionModel.AGENT_RUNTIME,
        ),
    )
    started = said.RunStartedFact(
        specversion="1.0",
        id=f"{line}-run",
        source="/clients",
        type="run.started",
        data=said.RunStarted(service_line_id=line),
    )
    facts = FactsApi(client)
    assert facts.report_facts(said.Fact(activated)).data.outcome == "recorded"
    batch = facts.report_fact_batch([said.Fact(started), said.Fact(activated)])
    assert [item.outcome for item in batch.data] == ["recorded", "duplicate"]


def read() -> None:
    """Read the list, the line, its runs, its events by their types, and the checkpoint."""
    found = lines.list_executions(state=[said.State.RUNNING, said.State.IDLE], limit=100)
    assert [row.state for row in found.data if row.service_line_id == line] == ["running"]
    assert lines.show_execution(line).data.open_runs == 1
    assert len(RunsApi(client).list_execution_runs(line).data) == 1
    events = FeedsApi(client).list_events(service_line_id=line).data
    first, second = (event.actual_instance for event in events)
    assert isinstance(first, said.ExecutionStartedEvent)
    assert first.payload.product_line == "agent_gateway"
    assert isinstance(second, said.RunStartedEvent)
    assert second.type == "run.started"
    assert len(ProofApi(client).show_checkpoint().splitlines()) >= 4


def manage() -> None:
    """Pause and resume the line, be refused; set up, change, show and remove a webhook."""
    reason = said.Pausing(reason="A client's test")
    assert lines.pause_execution(line, reason).data.state == "paused"
    problem = None
    try:
        lines.pause_execution(line, reason)
    except ConflictException as error:
        problem = error.data
    assert isinstance(problem, said.Problem)
    assert problem.code == "invalid_state"
    resumed = lines.resume_execution(line, idempotency_key=f"{line}-resume")
    assert resumed.data.state == "running"
    webhooks = WebhooksApi(client)
    new = said.NewWebhook(
        url="https://1.1.1.1/", event_types=[said.EventTypeOrEvery.RUN_DOT_FAILED]
    )
    made = webhooks.create_webhook(new).data
    assert made.secret
    changes = said.WebhookChanges(event_types=[said.EventTypeOrEvery("*")], enabled=False)
    assert webhooks.update_webhook(made.id, changes).data.event_types == ["*"]
    assert webhooks.show_webhook(made.id).data.status is not None
    webhooks.delete_webhook(made.id)


report()
read()
manage()
