"""Control characters of any text are shown as escapes on every page."""

from ledger.app.settings import Settings
from tests.support.databases import execute
from tests.support.edge import edge_of
from tests.support.facts import LINE, activation, fact
from tests.support.ledger import working
from tests.support.service import Clock
from tests.support.visitor import visitor

ODD = "\u202e\x9b\x1b\u2066"
HOSTILE = f"{ODD}[2J"
ESCAPED = r"\u202e\x9b\x1b\u2066[2J"


def test_values_and_names_are_shown_with_escapes(settings: Settings, conninfo: str) -> None:
    clock = Clock()
    data = {"service_line_id": LINE, "input": HOSTILE}
    signal = {"signal": "sla_compliance", "status": "amber", "value": HOSTILE}
    with working(conninfo, settings, clock) as ledger:
        ledger.accept(activation())
        (started,) = ledger.accept(fact("run.started", None, data))
        run, error = started.subject, {"code": "C", "message": HOSTILE}
        ledger.accept(fact("run.failed", run, {"output": {HOSTILE: [HOSTILE]}, "error": error}))
        ledger.accept(fact("health.signal_reported", LINE, signal))
    with edge_of(settings, conninfo, clock) as edge:
        reader = visitor(edge, "read", "keys:manage", "audit:read", "webhooks:manage")
        execute(conninfo, "UPDATE ledger.api_key SET name = U&'\\202E\\009B\\001B\\2066[2J'")
        for path in (f"/ui/lines/{LINE}", f"/ui/runs/{run}", "/ui/audit", "/ui/keys"):
            page = reader.get(path)
            assert page.status == 200, path
            assert ESCAPED in page.text, path
            assert not set(ODD) & set(page.answer.text), path
