"""Queries that clients repeat are parsed once."""

from collections.abc import Iterator

import pytest
from pydantic import BaseModel, ValidationError

from ledger.engine.http import lean
from ledger.engine.http.reading import PageQuery
from tests.support.edge import Edge


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """The query strings that are parsed."""
    found, parse = list[bytes](), lean.parse_query

    def noted(raw: bytes, model: type[BaseModel]) -> BaseModel:
        found.append(raw)
        return parse(raw, model)

    lean._repeated_query.cache_clear()
    monkeypatch.setattr(lean, "parse_query", noted)
    yield found
    lean._repeated_query.cache_clear()


def test_a_repeated_query_is_parsed_once(edge: Edge, parsed: list[bytes]) -> None:
    for _ in range(3):
        assert edge.get("/v1/execution?limit=7").status_code == 200
        assert edge.get("/v1/runs?limit=7").status_code == 200, "another route parses for itself"
    assert parsed == [b"limit=7"] * 2


def test_a_wrong_query_is_refused_each_time(edge: Edge, parsed: list[bytes]) -> None:
    for _ in range(2):
        assert edge.get("/v1/execution?limit=0").status_code == 422
    assert len(parsed) == 2


def test_a_long_query_is_not_kept(edge: Edge, parsed: list[bytes]) -> None:
    for _ in range(2):
        edge.get(f"/v1/execution?state=running{',running' * 50}")
    assert len(parsed) == 2


def test_no_request_can_change_a_query_that_others_share() -> None:
    query = PageQuery()
    with pytest.raises(ValidationError):
        query.limit = 100
