"""An organization has at most 100 webhook endpoints, whoever creates them (contract, Feeds)."""

from concurrent.futures import Future
from typing import Any

from ledger.engine.values.errors import InvalidState
from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.writer.command import Command
from ledger.engine.writer.request import Outcome, Receipt
from ledger.engine.writer.writer import Writer
from ledger.features.webhooks.commands import CreateEndpoint, DeleteEndpoint, EndpointSettings
from tests.support.facts import ORGANIZATION
from tests.support.ledger import Ledger
from tests.support.webhook_workload import SECRET

OTHER = "ORG-26-000002"


def create(organization: str = ORGANIZATION) -> Command:
    return CreateEndpoint(
        COMMAND_LINE,
        None,
        secret=SECRET,
        settings=EndpointSettings("http://127.0.0.1:9/", ("*",), None, True),
        organization_id=organization,
        workspace_id=None,
    )


def endpoints(ledger: Ledger) -> list[tuple[Any, ...]]:
    """(organization, endpoint) of every endpoint that counts towards the limit."""
    rows = ledger.rows("SELECT * FROM ledger.endpoint ORDER BY organization_id, endpoint_id")
    return [tuple(row.values()) for row in rows]


def test_an_organization_has_at_most_100_endpoints(own_ledger: Ledger) -> None:
    submit = own_ledger.writer.submit
    *made, refused = submit([create() for _ in range(101)]).result(30)
    assert isinstance(refused, InvalidState)
    assert refused.detail == "The organization already has 100 endpoints, the maximum."
    assert [type(outcome) for outcome in made] == [Receipt] * 100
    assert isinstance(submit([create(OTHER)]).result(30)[0], Receipt)
    # A deleted endpoint makes room for one more, even within the same append.
    first = made[0]
    assert isinstance(first, Receipt)
    remove = DeleteEndpoint(first.subject, COMMAND_LINE)
    outcomes = submit([create(), remove, create(), create()]).result(30)
    kinds = [InvalidState, Receipt, Receipt, InvalidState]
    assert [type(outcome) for outcome in outcomes] == kinds
    assert [organization for organization, _ in endpoints(own_ledger)].count(ORGANIZATION) == 100


def test_writers_that_race_set_up_no_more_than_a_hundred_endpoints(
    own_ledger: Ledger, another: Writer
) -> None:
    futures: list[Future[list[Outcome]]] = []
    for _ in range(60):
        futures += [writer.submit([create()]) for writer in (own_ledger.writer, another)]
    outcomes = [future.result(30)[0] for future in futures]
    assert sum(isinstance(outcome, Receipt) for outcome in outcomes) == 100
    assert len(endpoints(own_ledger)) == 100
