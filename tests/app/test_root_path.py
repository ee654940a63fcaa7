"""Everything below a path prefix, whether a proxy strips the prefix or passes it on."""

from collections.abc import Iterator
from urllib.parse import urljoin, urlsplit

import pytest

from ledger.app.http.app import LedgerApi
from ledger.app.settings import OWN_PATHS, Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import copied
from tests.support.edge import Edge, assert_problem, edge_of
from tests.support.facts import ORGANIZATION, fact
from tests.support.soak import repeated
from tests.support.visitor import Visited, Visitor

ROOT = "/tools/ledger"
APP = "https://app.example.com"
PERMISSIONS = (
    "read", "service_lines:manage", "webhooks:manage", "audit:read", "statements:issue",
    "watches:manage",
)  # fmt: skip

REFERRING = "/ui/lines"
"""The page on which a visitor's forms are, as the service names it."""

ADDRESSES = ("href", "src", "action", "hx-get", "data-stream")
"""The attributes with which pages name addresses."""


@pytest.fixture(scope="module")
def below(server: EmbeddedPostgres) -> Iterator[Edge]:
    settings = Settings(
        master_key=MASTER_KEY, root_path=ROOT, webhook_allow_private=True, cors_origins=APP
    )
    with copied(server.url, "below") as conninfo, edge_of(settings, conninfo) as edge:
        yield edge


@pytest.fixture(params=repeated(["strips", "passes on"]))
def sent(request: pytest.FixtureRequest) -> str:
    """The prefix, as far as the paths that the proxy sends have it."""
    return "" if request.param == "strips" else ROOT


class Guest(Visitor):
    """A visitor behind a proxy, who knows addresses below the prefix alone."""

    def __init__(self, edge: Edge, sent: str) -> None:
        super().__init__(edge)
        self._sent = sent

    def request(self, method: str, path: str, **options: object) -> Visited:
        target = urlsplit(path)
        assert f"{target.path}/".startswith(f"{ROOT}/"), path
        query = f"?{target.query}" if target.query else ""
        inner = target.path.removeprefix(ROOT) or "/"
        # The cookies of a browser belong to the path that the browser sees.
        cookies = self.http.cookies
        cookie_header = "; ".join(
            f"{c.name}={c.value}" for c in cookies.jar if f"{target.path}/".startswith(f"{c.path}/")
        )
        headers = {"cookie": cookie_header, "referer": f"http://ledger.test{ROOT}{REFERRING}"}
        return super().request(method, self._sent + inner + query, headers=headers, **options)

    def entered(self, token: str) -> "Guest":
        page = self.get(f"{ROOT}/")
        answer = self.submit(page, f"{ROOT}/ui/sign-in", token=token)
        assert (answer.status, answer.location) == (303, f"{ROOT}/ui")
        return self


def addresses_of(page: Visited, own: str = "") -> set[str]:
    """Every address that a page names, as a browser resolves it, without fragments."""
    found = {
        str(tag[name]).partition("#")[0]
        for name in ADDRESSES
        for tag in page.all(f"[{name}]")
        if not str(tag[name]).startswith("#")
    }
    found |= {str(tag["content"]).partition("url=")[2] for tag in page.all("[http-equiv=refresh]")}
    return {urljoin(own, address) for address in found - {""}}


def filled(edge: Edge) -> str:
    """A line with a history, as all pages of the walk need it."""
    line = edge.fresh()
    run = line.replace("LIN", "RUN")
    edge.accept(fact("run.started", run, {"service_line_id": line}))
    edge.accept(fact("run.completed", run, {"output": {"a": 1}}))
    data = {"blocker_id": "B", "cause": "policy_violation", "reason": 'say href="/ui/lines"'}
    edge.accept(fact("execution.blocked", line, data))
    return line


def test_every_address_of_every_page_leads_below_the_prefix(below: Edge, sent: str) -> None:
    """A walk over all links of all pages, as far as they go."""
    filled(below)
    guest = Guest(below, sent).entered(below.token(*PERMISSIONS))
    below.post("/v1/webhooks", json={"url": "http://127.0.0.1:9/hook", "event_types": ["*"]})
    watch = {"condition": {"kind": "in_state", "states": ["blocked"]}, "for_seconds": 0}
    below.post("/v1/watches", json={"organization_id": ORGANIZATION, "name": "W"} | watch)
    below.run_watches()
    period = {"from": "2026-04-01", "to": "2026-04-15"}
    below.post("/v1/statements", json={"organization_id": ORGANIZATION, **period})
    waiting, done = {f"{ROOT}/ui"}, set()
    while waiting:
        address = waiting.pop()
        done.add(urlsplit(address).path)
        answer = guest.get(address)
        if answer.status == 303:
            found = {answer.location}
        else:
            is_form = any(
                address.endswith(end)
                for end in ("sign-out", "zone", "/search", "as-of", "directory")
            )
            assert answer.status == 200 or is_form, (address, answer.status)
            is_page = answer.answer.headers["content-type"].startswith("text/html")
            found = addresses_of(answer, address) if is_page else set()
        for one in found:
            assert f"{one}/".startswith(f"{ROOT}/"), (address, one)
            if urlsplit(one).path not in done and "/ui/stream" not in one and "export" not in one:
                waiting.add(one)
    paths = {path.removeprefix(ROOT) for path in done}
    assert {"/ui", "/ui/usage", "/ui/compare", "/ui/events", "/ui/audit", "/ui/webhooks"} <= paths
    assert "/docs" in paths
    kinds = {path.split("/")[2] for path in paths if path.count("/") > 2}
    assert {"lines", "runs", "events", "webhooks", "statements", "static", "alerts"} <= kinds


def test_text_that_looks_like_an_address_is_shown_as_it_was_sent(below: Edge, sent: str) -> None:
    line = filled(below)
    guest = Guest(below, sent).entered(below.token(*PERMISSIONS))
    assert 'say href="/ui/lines"' in guest.get(f"{ROOT}/ui/lines/{line}").text


def test_forms_are_sent_and_lead_back_below_the_prefix(below: Edge, sent: str) -> None:
    line = filled(below)
    guest = Guest(below, sent).entered(below.token(*PERMISSIONS))
    path = f"{ROOT}/ui/lines/{line}"
    page = guest.get(path)
    paused = guest.submit(page, f"{path}/pause", reason="Review")
    assert (paused.status, paused.location) == (303, path)
    again = {"reason": "Again", "request_key": "another"}
    refused = guest.post(f"{path}/pause", page.form(f"{path}/pause") | again)
    assert refused.status == 409
    assert refused.form(f"{ROOT}/ui/zone")["next"] == REFERRING
    zoned = guest.submit(guest.get(path), f"{ROOT}/ui/zone", zone="Europe/Berlin")
    assert (zoned.status, zoned.location) == (303, path)
    assert "Europe/Berlin" in guest.get(path).text
    answer = guest.get(f"{ROOT}/ui/as-of?at=2026-04-15T12:00&next=/ui/lines/{line}")
    assert answer.location.startswith(f"{path}?as_of=2026-04-15T")
    found = guest.get(f"{ROOT}/ui/search?q={line}")
    assert found.location == path
    left = guest.submit(guest.get(path), f"{ROOT}/ui/sign-out")
    assert (left.status, left.location) == (303, f"{ROOT}/")
    assert guest.get(path).status == 401


def test_cookies_belong_to_the_paths_below_the_prefix(below: Edge, sent: str) -> None:
    guest = Guest(below, sent).entered(below.token(*PERMISSIONS))
    guest.submit(guest.get(f"{ROOT}/ui"), f"{ROOT}/ui/zone", zone="Europe/Berlin")
    paths = {cookie.name: cookie.path for cookie in guest.http.cookies.jar}
    own = dict.fromkeys(("ledger_zone", "ledger_visits"), f"{ROOT}/ui")
    assert paths == {"ledger_session": ROOT, **own}
    # The cookie reaches the front page with and without a slash at the end.
    for front in (ROOT, f"{ROOT}/"):
        assert guest.get(front).location == f"{ROOT}/ui"


def test_a_page_that_was_refused_is_shown_after_signing_in(below: Edge, sent: str) -> None:
    line = filled(below)
    guest = Guest(below, sent)
    refused = guest.get(f"{ROOT}/ui/lines/{line}?month=2026-04")
    assert refused.status == 401
    answer = guest.submit(refused, f"{ROOT}/ui/sign-in", token=below.token("read"))
    assert answer.location == f"{ROOT}/ui/lines/{line}?month=2026-04"


def test_the_api_and_its_documents_are_below_the_prefix(below: Edge, sent: str) -> None:
    line = filled(below)
    for path in ("/healthz", "/readyz", "/metrics", "/docs", f"/v1/execution/{line}"):
        assert below.get(f"{sent}{path}").status_code == 200
    document = below.get(f"{sent}/openapi.json").json()
    assert [server["url"] for server in document["servers"]] == [ROOT]
    page = below.get(f"{sent}/docs").text
    assert f"{urljoin(f'{ROOT}/docs', 'openapi.json')}" == f"{ROOT}/openapi.json"
    assert 'data-document="openapi.json"' in page
    paused = below.post(f"{sent}/v1/execution/{line}/pause", json={"reason": "x"})
    assert paused.status_code == 200
    assert "ledger-position" in paused.headers
    assert paused.headers["cache-control"] == "private, no-cache"
    unlike = below.request("PATCH", f"{sent}/v1/webhooks/WHK-26-999999", json={"enabled": False})
    assert_problem(unlike, 404, "not_found")
    options = below.request("OPTIONS", f"{sent}/v1/execution")
    assert_problem(options, 405, "method_not_allowed")
    assert options.headers["allow"] == "GET, HEAD"
    assert below.request("HEAD", f"{sent}/v1/execution").status_code == 200


def test_a_page_of_another_origin_calls_the_api_below_the_prefix(below: Edge, sent: str) -> None:
    preflight = {"origin": APP, "access-control-request-method": "PATCH"}
    answer = below.request("OPTIONS", f"{sent}/v1/webhooks/WHK-26-000001", headers=preflight)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == APP
    read = below.get(f"{sent}/v1/execution", headers={"origin": APP})
    assert read.headers["access-control-allow-origin"] == APP
    assert "access-control-allow-origin" not in below.get(f"{sent}/ui", headers=preflight).headers


def test_a_command_sent_again_by_another_way_is_a_replay(below: Edge) -> None:
    """A key belongs to a path: the same path, whether or not the proxy strips the prefix."""
    line = filled(below)
    headers = {"idempotency-key": f"pause-{line}"}
    answers = [
        below.post(f"{way}/v1/execution/{line}/pause", json={"reason": "x"}, headers=headers)
        for way in ("", ROOT)
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[1].headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize(
    "path",
    [f"{ROOT}x/healthz", "/tools/healthz", f"{ROOT}{ROOT}/healthz", f"{ROOT}%2Fhealthz"],
)
def test_a_path_outside_the_prefix_is_a_404(below: Edge, path: str) -> None:
    assert_problem(below.get(path), 404, "not_found")


def test_no_path_of_the_service_begins_like_a_prefix_that_can_be_set(below: Edge) -> None:
    app = below.service.app
    assert isinstance(app, LedgerApi)
    firsts = {route.path.split("/")[1] for route in app.routes}  # type: ignore[attr-defined]
    assistants = {"mcp", ".well-known"}  # served where the operator says so, before the routes
    assert firsts - {""} | assistants == OWN_PATHS


def test_without_a_prefix_pages_and_documents_name_none(edge: Edge) -> None:
    guest = Visitor(edge, edge.token("read"))
    named = addresses_of(guest.get("/ui"))
    assert {urlsplit(address).path.split("/")[1] for address in named} == {"ui", "docs"}
    servers = edge.get("/openapi.json").json()["servers"]
    assert [server["url"] for server in servers] == ["/"]
    assert ORGANIZATION in guest.get("/ui").text
