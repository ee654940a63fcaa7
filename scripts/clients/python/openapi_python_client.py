"""A client made by openapi-python-client reports, reads and manages."""

import os
import sys

from ledger_client.api.execution import (
    list_executions,
    pause_execution,
    resume_execution,
    show_execution,
)
from ledger_client.api.facts import report_fact_batch, report_facts
from ledger_client.api.proof import show_checkpoint
from ledger_client.api.runs import list_execution_runs
from ledger_client.api.webhooks import (
    create_webhook,
    delete_webhook,
    show_webhook,
    update_webhook,
)
from ledger_client.models.endpoint_with_secret_answer import EndpointWithSecretAnswer
from ledger_client.models.event_type_or_every import EventTypeOrEvery
from ledger_client.models.execution_model import ExecutionModel
from ledger_client.models.fact_item_answer import FactItemAnswer
from ledger_client.models.fact_item_list_answer import FactItemListAnswer
from ledger_client.models.line_detail_answer import LineDetailAnswer
from ledger_client.models.new_webhook import NewWebhook
from ledger_client.models.optional_reason import OptionalReason
from ledger_client.models.pausing import Pausing
from ledger_client.models.product_line import ProductLine
from ledger_client.models.run_started import RunStarted
from ledger_client.models.run_started_fact import RunStartedFact
from ledger_client.models.run_started_fact_type import RunStartedFactType
from ledger_client.models.run_status import RunStatus
from ledger_client.models.service_line_activated import ServiceLineActivated
from ledger_client.models.service_line_activated_fact import ServiceLineActivatedFact
from ledger_client.models.service_line_activated_fact_type import ServiceLineActivatedFactType
from ledger_client.models.shown_endpoint_answer import ShownEndpointAnswer
from ledger_client.models.shown_line_page import ShownLinePage
from ledger_client.models.shown_run_page import ShownRunPage
from ledger_client.models.state import State
from ledger_client.models.webhook_changes import WebhookChanges

from ledger_client import AuthenticatedClient

line = sys.argv[1]
client = AuthenticatedClient(base_url=os.environ["LEDGER"], token=os.environ["TOKEN"])


def report() -> None:
    """Report a fact, and a batch."""
    activated = ServiceLineActivated(
        organization_id="ORG-26-000001",
        workspace_id="WS-26-000001",
        product_line=ProductLine.AGENT_GATEWAY,
        execution_model=ExecutionModel.AGENT_RUNTIME,
    )
    fact = ServiceLineActivatedFact(
        specversion="1.0",
        id=f"{line}-activated",
        source="/clients",
        type_=ServiceLineActivatedFactType.SERVICE_LINE_ACTIVATED,
        subject=line,
        data=activated,
    )
    answer = report_facts.sync(client=client, body=fact)
    assert isinstance(answer, FactItemAnswer), answer
    started = RunStartedFact(
        specversion="1.0",
        id=f"{line}-run",
        source="/clients",
        type_=RunStartedFactType.RUN_STARTED,
        data=RunStarted(service_line_id=line),
    )
    batch = report_fact_batch.sync(client=client, body=[started, fact])
    assert isinstance(batch, FactItemListAnswer), batch
    assert [item.outcome.value for item in batch.data] == ["recorded", "duplicate"]


def read() -> None:
    """Read the list, the line, its runs, and the checkpoint."""
    found = list_executions.sync(client=client, state=[State.RUNNING, State.IDLE], limit=100)
    assert isinstance(found, ShownLinePage), found
    assert [row.state for row in found.data if row.service_line_id == line] == [State.RUNNING]
    view = show_execution.sync(line, client=client)
    assert isinstance(view, LineDetailAnswer), view
    assert view.data.open_runs == 1
    runs = list_execution_runs.sync(
        line, client=client, status=[RunStatus.RUNNING, RunStatus.FAILED]
    )
    assert isinstance(runs, ShownRunPage), runs
    assert len(runs.data) == 1
    note = show_checkpoint.sync(client=client)
    assert isinstance(note, str), note
    assert len(note.splitlines()) >= 4


def manage() -> None:
    """Pause and resume the line; set up, change, show and remove a webhook."""
    paused = pause_execution.sync(line, client=client, body=Pausing(reason="A client's test"))
    assert isinstance(paused, LineDetailAnswer), paused
    assert paused.data.state is State.PAUSED
    resumed = resume_execution.sync(
        line, client=client, body=OptionalReason(), idempotency_key=f"{line}-resume"
    )
    assert isinstance(resumed, LineDetailAnswer), resumed
    assert resumed.data.state is State.RUNNING
    new = NewWebhook(url="https://1.1.1.1/", event_types=[EventTypeOrEvery.RUN_FAILED])
    made = create_webhook.sync(client=client, body=new)
    assert isinstance(made, EndpointWithSecretAnswer), made
    endpoint_id = made.data.id
    changes = WebhookChanges(event_types=[EventTypeOrEvery("*")], enabled=False)
    changed = update_webhook.sync(endpoint_id, client=client, body=changes)
    assert isinstance(changed, ShownEndpointAnswer), changed
    view = show_webhook.sync(endpoint_id, client=client)
    assert isinstance(view, ShownEndpointAnswer), view
    assert view.data.event_types == ["*"]
    assert delete_webhook.sync_detailed(endpoint_id, client=client).status_code == 204


report()
read()
manage()
