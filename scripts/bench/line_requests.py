"""Requests about a data set's lines: the path of each, and the SQL that answers it.

Only this module of the bench has the API's way from a request to a statement.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from chronicle import BEGINS, SPAN
from limits import Query
from population import TAGS, WORKSPACES, Population
from story import ORGANIZATION, line_id

from ledger.engine.http.lists import encode_cursor
from ledger.engine.values.values import (
    CAUSES,
    EXECUTION_MODELS,
    PRODUCT_LINES,
    STATES,
    day_of,
    format_id,
    format_instant,
    sort_key,
    week_of,
)
from ledger.features.lines.routes.executions import LinesQuery
from projections.lines import lists, statements
from projections.runs.statements import runs_read

PAGE = 25
_TENANT = frozenset({"organization"})

Filters = Mapping[str, str]


@dataclass(frozen=True)
class Ask:
    """One request, and the statement that answers it."""

    path: str
    query: Query


class Asker:
    """Makes requests about a population, drawn from one seed."""

    def __init__(self, population: Population, newest: str) -> None:
        """``newest`` is the first record id of the list."""
        self._lines = population
        self._ids = population.ids()
        self._newest = sort_key(newest) % 10**12
        self._draw = random.Random(7)
        now = datetime.now(UTC)
        self._clock: dict[str, object] = {"today": day_of(now), "week": week_of(now)}

    # Lists.

    def choices(self, name: str) -> list[dict[str, str]]:
        """The filters of this name: values of a parameter; ``none`` and ``rare`` are no parameters.

        ``none`` gives no filter, ``rare`` gives three filters at once.
        """
        workspaces = [f"WS-26-{number:06d}" for number in range(1, WORKSPACES + 1)]
        tags = [f"PROJ-26-{number:06d}" for number in range(1, TAGS + 1)]
        if name == "none":
            return [{}]
        if name == "rare":
            return [
                {"workspace_id": workspace, "project_tag": tag, "blocked_cause": cause}
                for workspace, tag, cause in zip(workspaces, tags[40:], CAUSES * 5, strict=True)
            ]
        values = {
            "workspace_id": workspaces,
            "state": STATES,
            "execution_model": EXECUTION_MODELS,
            "product_line": PRODUCT_LINES,
            "project_tag": tags,
            "blocked_cause": CAUSES,
        }
        return [{name: value} for value in values[name]]

    def lists(self, name: str, count: int) -> list[Ask]:
        """Pages from all parts of the list, drawn anew each time."""
        choices = self.choices(name)
        return [self.page(self._draw.choice(choices), self._somewhere()) for _ in range(count)]

    def first_pages(self, name: str, count: int) -> list[Ask]:
        """The first pages for a few filters, as screens poll them all day."""
        return [self.page(filters) for filters in self.choices(name)[:count]]

    def page(self, filters: Filters, after: str | None = None, as_of: str | None = None) -> Ask:
        """A page of a list: the first page, or the page after a record id."""
        chosen = LinesQuery(**filters).chosen()
        parameters = {"limit": str(PAGE), **filters}
        values: dict[str, object] = {**self._tenant(), **chosen, "limit": PAGE + 1}
        if after is not None:
            parameters["cursor"] = encode_cursor({"id": after}, chosen)
            values["after"] = sort_key(after)
        if as_of is not None:
            parameters["as_of"] = as_of
        named = {name: values[name] for name in values.keys() - self._clock.keys() - {"limit"}}
        return Ask(f"/v1/execution?{urlencode(parameters)}", (lists.list_read(named).sql, values))

    def past_pages(self, count: int) -> list[Ask]:
        """Pages as of the middle of the data set; their SQL is that of the live page."""
        return [self.page({}, self._somewhere(), self._then()) for _ in range(count)]

    def _then(self) -> str:
        """An instant about the middle of the data set."""
        return format_instant(BEGINS + SPAN / 2 + timedelta(minutes=self._draw.randrange(10_000)))

    def _somewhere(self) -> str:
        """A RUN id from anywhere in the list except its end, where pages are short."""
        number = self._draw.randrange(self._newest // 10, self._newest + 1)
        return format_id("RUN", BEGINS.year, number)

    # Lines, runs, counts.

    def details(self, count: int) -> list[Ask]:
        """Details of lines from all over the data set."""
        return [self.detail(line) for line in self._draw.choices(self._ids, k=count)]

    def detail(self, line: str) -> Ask:
        values = {**self._tenant(), "line_id": line}
        return Ask(f"/v1/execution/{line}", (statements.detail_read(_TENANT).sql, values))

    def runs(self, count: int) -> list[Ask]:
        """Pages of the big line's runs, from its whole life."""
        moments = [BEGINS + SPAN * self._draw.uniform(0.1, 1) for _ in range(count)]
        return [self._runs_after(moment) for moment in moments]

    def first_runs(self) -> list[Ask]:
        """The first page of the big line's runs."""
        return [self._runs_after(None)]

    def _runs_after(self, moment: datetime | None) -> Ask:
        line = line_id(self._lines.big)
        parameters = {"limit": str(PAGE)}
        values: dict[str, Any] = {"organization": ORGANIZATION, "line_id": line, "limit": PAGE + 1}
        names: frozenset[str] = frozenset()
        if moment is not None:
            run = format_id("RUN", BEGINS.year, 1)
            key = {"id": run, "at": format_instant(moment)}
            parameters["cursor"] = encode_cursor(key, {"line": line})
            values |= {"after": sort_key(run), "after_at": moment}
            names = frozenset({"after"})
        statement = runs_read(_TENANT, names).sql
        return Ask(f"/v1/execution/{line}/runs?{urlencode(parameters)}", (statement, values))

    def summaries(self, name: str) -> list[str]:
        """The paths of summaries by the filters of a name."""
        queries = [urlencode(filters) for filters in self.choices(name)]
        return [f"/v1/execution/summary{'?' if query else ''}{query}" for query in queries]

    def past_summaries(self, count: int) -> list[str]:
        """The paths of summaries of all lines, as of about the middle of the data set."""
        return [f"/v1/execution/summary?as_of={self._then()}" for _ in range(count)]

    def _tenant(self) -> dict[str, object]:
        """The parameters that the service binds in every read of lines."""
        return {"organization": ORGANIZATION, **self._clock}


def paths(asks: Iterable[Ask]) -> list[str]:
    return [ask.path for ask in asks]


def queries(asks: Iterable[Ask]) -> list[Query]:
    """The requests' statements."""
    return [ask.query for ask in asks]
