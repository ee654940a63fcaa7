"""Runs, and the pages that list them, for the tests of the pages."""

from typing import Any

from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.ledger import new_id
from tests.support.visitor import Seen, Visitor


def run_of(edge: Edge, line_id: str, *kinds: str, **data: Any) -> str:
    """A run with these facts, ten seconds apart; the last fact has ``data``."""
    run = new_id("RUN")
    for kind in kinds:
        begun = {"service_line_id": line_id} if kind in ("requested", "started") else {}
        more = data if kind == kinds[-1] else {}
        edge.accept(fact(f"run.{kind}", run, begun | more, time=edge.clock.now.isoformat()))
        edge.clock.advance(seconds=10)
    return run


def runs_path(line_id: str) -> str:
    return f"/ui/lines/{line_id}/runs"


def listed(page: Seen) -> list[str]:
    return [str(row["id"]) for row in page.all(".run-rows tbody tr")]


def walk(guest: Visitor, path: str) -> list[str]:
    page, found = guest.get(path), list[str]()
    while True:
        found += listed(page)
        following = page.all('a[rel="next"]')
        if not following:
            return found
        page = guest.get(str(following[0]["href"]))
