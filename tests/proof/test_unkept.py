"""Checkpoints that a node cannot keep in its data directory, where there is no room."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.ledger import Ledger
from tests.support.sealing import Node, shown_size


@contextmanager
def without_room(node: Node) -> Iterator[None]:
    """A node that can read its witness, and cannot write another one."""
    (file,) = node.folder.glob("*.checkpoint")
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    draft.mkdir()
    try:
        yield
    finally:
        draft.rmdir()


def test_a_checkpoint_that_a_node_could_not_store_is_stored_and_reported_once_there_is_room(
    full: Ledger, a: Node, b: Node
) -> None:
    """Nothing else is recorded meanwhile, so no later checkpoint comes."""
    a.beat()
    b.join()
    full.line()
    with without_room(b):
        assert a.seal() == 1
        b.beat()
        assert a.seal() == 0
        assert shown_size(full) == 601
    b.beat()
    assert a.seal() == 0
    assert shown_size(full) == 602


def test_a_node_alone_shows_a_checkpoint_once_it_has_stored_it(full: Ledger, a: Node) -> None:
    a.beat()
    full.line()
    with without_room(a):
        assert a.seal() == 1
        assert a.seal() == 0
        assert shown_size(full) == 601, "after a restart nobody would know of it"
    assert a.seal() == 0
    assert shown_size(full) == 602


def test_a_checkpoint_that_its_signer_could_not_store_is_not_shown_for_one_other_node(
    full: Ledger, a: Node, b: Node
) -> None:
    a.beat()
    b.join()
    full.line()
    with without_room(a):
        assert a.seal() == 1
        b.beat()
        assert a.seal() == 0
        assert shown_size(full) == 601, "one file alone has the newest one"
    assert a.seal() == 0
    assert shown_size(full) == 602


def test_a_node_alone_does_not_show_what_it_takes_from_the_database_and_cannot_keep(
    full: Ledger, a: Node
) -> None:
    """The node was started again before there was room."""
    a.beat()
    full.line()
    with without_room(a):
        assert a.seal() == 1
        a.disconnect()
        with Node(full.conninfo, a.folder) as again:
            assert [again.seal(), again.seal()] == [0, 0]
            assert shown_size(full) == 601
            again.disconnect()
    assert [a.seal(), shown_size(full)] == [0, 602]
