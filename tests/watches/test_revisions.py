"""A watch begins at most five revisions in five minutes, whoever decides (contract, Watches)."""

from ledger.app.composition.writing import create_writer
from ledger.engine.log import snapshots
from ledger.engine.log.event_log import Log
from ledger.engine.values.errors import ChangedTooOften
from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.writer.command import Command
from ledger.engine.writer.request import Receipt
from ledger.features.watches.commands.watches import UpdateWatch
from ledger.features.watches.kinds import InState
from tests.support.ledger import Ledger

BLOCKED = InState(("blocked",))


def change(watch: str, seconds: int) -> Command:
    return UpdateWatch(watch, COMMAND_LINE, changes={"for_seconds": seconds})


def test_a_refused_revision_neither_stops_nor_divides_its_group(own_ledger: Ledger) -> None:
    watch, other = own_ledger.watch(BLOCKED), own_ledger.watch(BLOCKED)
    commands = [*(change(watch, number) for number in range(1, 9)), change(other, 1)]
    outcomes = own_ledger.writer.submit(commands).result(30)
    kinds = [Receipt] * 5 + [ChangedTooOften] * 3 + [Receipt]
    assert [type(outcome) for outcome in outcomes] == kinds
    written = own_ledger.rows(
        "SELECT DISTINCT xmin::text FROM ledger.ledger_events WHERE topic LIKE 'watch.updated/%'"
    )
    assert len(written) == 1, "one append"


def test_the_writer_of_another_process_knows_the_revisions(own_ledger: Ledger) -> None:
    watch, clock = own_ledger.watch(BLOCKED), own_ledger.clock
    for number in range(1, 6):
        assert own_ledger.execute(change(watch, number)).outcome == "recorded"
        clock.advance(seconds=61)
    log = Log(own_ledger.conninfo)
    another = create_writer(own_ledger.settings, log, clock)
    another.start()
    try:
        # The first revision is five minutes old, and so counts no more.
        (sixth,) = another.submit([change(watch, 6)]).result(30)
        (seventh,) = own_ledger.writer.submit([change(watch, 7)]).result(30)
        assert isinstance(sixth, Receipt)
        assert isinstance(seventh, ChangedTooOften)
        assert 50 < seventh.seconds <= 61
    finally:
        another.stop()
        log.close()


def test_a_snapshot_has_the_revisions(own_ledger: Ledger) -> None:
    watch = own_ledger.watch(BLOCKED)
    for number in range(1, 6):
        own_ledger.execute(change(watch, number))
    found = own_ledger.writer._memory.find(watch)
    assert found is not None
    restored = snapshots.restore(watch, found.version, snapshots.encode(found))
    assert restored == found
