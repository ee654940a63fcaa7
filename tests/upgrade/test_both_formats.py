"""A ledger that commit 57058cd wrote goes on in format 2: one sealed log holds both formats."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ledger.postgres.embedded import EmbeddedPostgres
from ledger.service.composition.sealing import create_sealer, create_watch, witness_folder
from scripts.bench.corpus_request import Request
from tests.sealing.conftest import report
from tests.support.ledger import working
from tests.support.restored import OldLedger, answering
from tests.support.sealing import checked, keep_witness
from tests.support.verifier import verifier
from tests.support.views import query

OLD_LEDGER = OldLedger("57058cd")
NEW_EVENTS = 301


class Continued(NamedTuple):
    """The ledger after new events, and the files that an auditor has of it."""

    conninfo: str
    folder: Path
    """The folder of the last checkpoint outside of the database."""
    old_size: int
    """The number of events in format 1, and of the leaves in ``old_checkpoint``."""
    old_checkpoint: str
    log: Callable[[str], bytes]
    """Answers of the sealed log's routes, by what follows ``/v1/log/``."""

    @property
    def positions(self) -> list[int]:
        """The position of each event, in order."""
        every = "SELECT notification_id FROM ledger.ledger_events ORDER BY 1"
        return [position for (position,) in query(self.conninfo, every)]


@pytest.fixture(scope="module")
def continued(
    server: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Continued]:
    folder = tmp_path_factory.mktemp("data")
    settings = OLD_LEDGER.settings.model_copy(update={"data_dir": folder})
    with OLD_LEDGER.restored(server.url) as conninfo:
        last = "SELECT size, note FROM ledger.checkpoint ORDER BY size DESC LIMIT 1"
        ((old_size, old_checkpoint),) = query(conninfo, last)
        with working(conninfo, settings, OLD_LEDGER.clock) as ledger:
            report(ledger, ledger.line("capacity"), NEW_EVENTS - 1)
        keep_witness(conninfo, witness_folder(settings))
        sealer = create_sealer(settings, conninfo, create_watch(settings, 0.0), OLD_LEDGER.clock)
        assert sealer.run_once() == NEW_EVENTS
        sealer.disconnect()
        with answering(OLD_LEDGER, conninfo) as ask:

            def log(path: str) -> bytes:
                answer = ask(Request("admin", f"/v1/log/{path}"))
                assert answer.status == 200, answer.body
                return answer.body

            yield Continued(conninfo, witness_folder(settings), old_size, old_checkpoint, log)


def test_the_log_verifies(continued: Continued) -> None:
    found, faults = checked(continued.conninfo, continued.folder)
    assert faults == []
    assert (found.events, found.unsealed) == (continued.old_size + NEW_EVENTS, 0)


def test_every_event_of_both_formats_is_proven_offline(continued: Continued) -> None:
    log = continued.log
    key, checkpoint = log("key").decode(), log("checkpoint").decode()
    positions = query(
        continued.conninfo, "SELECT notification_id FROM ledger.ledger_events ORDER BY 1"
    )
    versions = []
    for (position,) in positions:
        leaf = log(f"entries/{position}")
        proof = log(f"proof/inclusion?position={position}").decode()
        assert verifier.proves_inclusion(key, checkpoint, leaf, proof), position
        versions.append((json.loads(leaf)["v"], "reported_by" in json.loads(leaf)))
    assert versions == [(1, False)] * continued.old_size + [(2, True)] * NEW_EVENTS


def test_a_leaf_of_either_version_that_was_changed_is_not_proven(continued: Continued) -> None:
    log, old_size = continued.log, continued.old_size
    key, checkpoint = log("key").decode(), log("checkpoint").decode()
    for rank, v in ((old_size - 1, 1), (old_size, 2)):
        position = continued.positions[rank]
        proof = log(f"proof/inclusion?position={position}").decode()
        leaf = log(f"entries/{position}")
        forged = leaf.replace(b'{"v":%d' % v, b'{"v":%d' % (3 - v))
        assert forged != leaf
        assert not verifier.proves_inclusion(key, checkpoint, forged, proof)


def test_the_log_only_grew_over_the_change_of_format(continued: Continued) -> None:
    log, old_size = continued.log, continued.old_size
    key, checkpoint = log("key").decode(), log("checkpoint").decode()
    size = old_size + NEW_EVENTS
    proof = log(f"proof/consistency?from={old_size}&to={size}").decode()
    assert verifier.proves_consistency(key, continued.old_checkpoint, checkpoint, proof)
    assert not verifier.proves_consistency(key, checkpoint, continued.old_checkpoint, proof)
