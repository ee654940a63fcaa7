"""Rows are written and found by statements that follow from a table's description."""

from collections.abc import Iterator
from typing import NamedTuple

import psycopg
import pytest

from ledger.engine.postgres.pipeline import Pipeline, Statement, find, insert
from ledger.engine.postgres.schema.table import BigInt, Instant, Table, Text, Texts


class Place(NamedTuple):
    """A row with a key of two columns."""

    street: Text
    number: BigInt
    tags: Texts
    since: Instant | None


class Name(NamedTuple):
    """A row with its key alone."""

    name: Text


PLACE = Table("place", Place, key=("street", "number"), replaces=True)
NAME = Table("name", Name, key=("name",))

PLACES = [Place("a", 1, ["x", 'y"'], None), Place("a", 2, [], None), Place("b", 1, [], None)]


@pytest.fixture
def pipeline(conninfo: str) -> Iterator[Pipeline]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE ledger.place (street text, number bigint, tags text[], since timestamptz,"
            " PRIMARY KEY (street, number)); CREATE TABLE ledger.name (name text PRIMARY KEY)"
        )
        yield Pipeline(connection)


def found(pipeline: Pipeline, *keys: tuple[str, int]) -> list[Place]:
    return sorted(Place(*row) for row in pipeline.run(find(PLACE, keys))[0])


def test_rows_are_found_by_their_keys(pipeline: Pipeline) -> None:
    pipeline.run(insert({PLACE: PLACES}))
    assert found(pipeline, ("a", 1), ("b", 1), ("b", 2)) == [PLACES[0], PLACES[2]]


def test_a_row_replaces_an_earlier_row_of_its_key(pipeline: Pipeline) -> None:
    pipeline.run(insert({PLACE: PLACES}))
    pipeline.run(insert({PLACE: [moved := PLACES[0]._replace(tags=["z"])]}))
    assert found(pipeline, ("a", 1), ("a", 2)) == [moved, PLACES[1]]


def test_a_row_of_a_table_that_never_replaces_is_refused_the_second_time(
    pipeline: Pipeline,
) -> None:
    pipeline.run(insert({NAME: [("one",)]}))
    with pytest.raises(psycopg.errors.UniqueViolation):
        pipeline.run(insert({NAME: [("one",)]}))


def test_several_tables_are_written_by_one_statement_that_may_select(pipeline: Pipeline) -> None:
    rows = pipeline.run(insert({PLACE: PLACES, NAME: [("n",)]}, "{}::bigint + 1", 41))
    assert rows == [[(42,)]]
    counts = Statement(b"SELECT (SELECT count(*) FROM ledger.place), count(*) FROM ledger.name")
    assert pipeline.run(counts) == [[(3, 1)]]
