"""The plan of an append: an organization that is alone needs no turns (contract, Access)."""

from ledger.engine.values.principal import Principal
from ledger.engine.writer.command import OwnCommand
from ledger.engine.writer.fair_queue import GROUP, SLOT_FACTS, FairQueue, Ticket
from tests.support.racing_writers import principal

ALONE = principal("alone")
OTHER = Principal("other", "api_key", frozenset({"write"}), organization_id="ORG-26-000002")


def ticket(by: Principal, commands: int) -> Ticket:
    return Ticket([OwnCommand(by) for _ in range(commands)], lambda outcomes: None)


def planned(*tickets: Ticket) -> list[int]:
    queue = FairQueue(is_apart=False)
    for each in tickets:
        queue.add(each)
    return [each.size for each in queue.plan()]


def test_all_that_one_organization_has_handed_in_is_one_append() -> None:
    assert planned(ticket(ALONE, GROUP), ticket(ALONE, GROUP)) == [GROUP]
    assert planned(ticket(ALONE, 300), ticket(ALONE, 300)) == [300, 300]


def test_with_another_organization_each_has_a_slot_of_the_append() -> None:
    assert planned(ticket(ALONE, 300), ticket(OTHER, 300)) == [SLOT_FACTS, SLOT_FACTS]
