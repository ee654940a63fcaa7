"""Control characters that earlier versions took are shown as escapes on every page."""

from ledger.app.settings import Settings
from tests.support.databases import execute
from tests.support.edge import edge_of
from tests.support.facts import LINE, WORKSPACE, activation, fact
from tests.support.ledger import working
from tests.support.service import Clock
from tests.support.visitor import visitor

ODD = "\u202e\x9b\x1b\u2066"
HOSTILE = f"{ODD}[2J"
SHOWN = r"\u202e\x9b\x1b\u2066[2J"


def test_names_and_reasons_that_earlier_versions_took_are_shown_with_escapes(
    settings: Settings, conninfo: str
) -> None:
    clock = Clock()
    blocked = {"blocker_id": "b", "cause": "approval_gap", "reason": HOSTILE, "assignee": HOSTILE}
    with working(conninfo, settings, clock) as ledger:
        ledger.accept_as_before(activation(name=HOSTILE))
        ledger.accept_as_before(fact("directory.named", WORKSPACE, {"name": HOSTILE}))
        begins = {"service_line_id": LINE, "external_id": HOSTILE}
        run = ledger.accept_as_before(fact("run.started", None, begins)).subject
        output = {HOSTILE: [HOSTILE]}
        ledger.accept(fact("run.completed", run, {"output": output}))
        ledger.accept_as_before(fact("execution.blocked", LINE, blocked, source=HOSTILE))
    with edge_of(settings, conninfo, clock) as edge:
        reader = visitor(edge, "read", "keys:manage", "audit:read", "webhooks:manage")
        execute(conninfo, "UPDATE ledger.api_key SET name = U&'\\202E\\009B\\001B\\2066[2J'")
        for path in ("/ui", f"/ui/lines/{LINE}", f"/ui/runs/{run}", "/ui/runs", "/ui/events",
                     "/ui/audit", "/ui/keys"):  # fmt: skip
            page = reader.get(path)
            assert page.status == 200, path
            assert SHOWN in page.text, path
            assert not set(ODD) & set(page.answer.text), path
