from typing import NamedTuple

import pytest

from ledger.engine.postgres.schema.table import BigInt, Instant, Table, Text, Texts


class Row(NamedTuple):
    line_id: Text
    tags: Texts
    number: BigInt | None
    since: Instant | None


class Untyped(NamedTuple):
    line_id: str


def test_columns_are_the_fields_of_the_row_in_their_order() -> None:
    table = Table("line", Row, key=("line_id",))
    assert list(table.columns.items()) == [
        ("line_id", "text"),
        ("tags", "text[]"),
        ("number", "bigint"),
        ("since", "timestamptz"),
    ]
    assert table.nullable == {"number", "since"}


def test_a_field_without_an_sql_type_is_refused() -> None:
    with pytest.raises(TypeError, match="no type of a column"):
        _ = Table("line", Untyped, key=("line_id",)).columns
