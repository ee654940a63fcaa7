"""The commands that empty pages teach, a key that may only report, and the way out of a refusal."""

import json
import shlex

import httpx
import pytest

from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION
from tests.support.visitor import Visited, Visitor, visitor

HERE = "http://ledger.test"


def command_of(page: Visited) -> str:
    """The command of a page, which its button copies."""
    command = page.one("pre.first").get_text()
    assert command in [button["data-copy"] for button in page.all(".copy")]
    return command


def carry_out(edge: Edge, command: str, token: str) -> httpx.Response:
    """Send what the command sends, with the token in its variable."""
    curl, address, _, authorization, _, media, _, body = shlex.split(command)
    assert (curl, authorization) == ("curl", "Authorization: Bearer $TOKEN")
    name, _, value = media.partition(": ")
    path = address.removeprefix(HERE)
    return edge.post(path, token, content=body.encode(), headers={name: value})


def test_empty_pages_teach_the_first_fact_run_and_endpoint_with_commands_that_work(
    edge: Edge,
) -> None:
    permissions = ("read", "write", "webhooks:manage")
    token = edge.token(*permissions, organization_id="ORG-26-000871")
    guest = Visitor(edge, token)
    first = command_of(guest.get("/ui"))
    assert command_of(guest.get("/ui/events")) == first
    run = command_of(guest.get("/ui/runs"))
    for command in (first, run):
        item = carry_out(edge, command, token).json()["data"]
        assert item["outcome"] == "recorded", item
    (line,) = edge.data("/v1/execution", token)
    assert (line["name"], line["open_runs"]) == ("My first line", 1)
    for path in ("/ui", "/ui/events", "/ui/runs"):
        assert guest.get(path).all("pre.first") == [], "it is no longer empty"
    of_line = guest.get(f"/ui/lines/{line['service_line_id']}/runs?as_of=2026-04-15T12:00:00Z")
    assert of_line.all("pre.first") == []
    endpoint = carry_out(edge, command_of(guest.get("/ui/webhooks")), token)
    assert endpoint.status_code == 201, endpoint.text
    assert guest.get("/ui/webhooks").all("pre.first") == []


def test_an_administrator_is_taught_with_an_organization(edge: Edge) -> None:
    token = edge.token("admin", organization_id=None)
    page = Visitor(edge, token).get("/ui/webhooks?workspace_id=WS-26-999999")
    assert page.all("pre.first") == [], "the filters find nothing, which teaches nothing"
    command = command_of(Visitor(edge, token).get("/ui/start"))
    body = json.loads(shlex.split(command)[-1])
    assert body["data"]["organization_id"] == ORGANIZATION


def test_a_key_that_may_only_report_begins_with_its_first_fact(edge: Edge) -> None:
    tenant = {"organization_id": "ORG-26-000872", "workspace_id": "WS-26-000872"}
    guest, token = Visitor(edge), edge.token("write", **tenant)
    page = guest.get(guest.sign_in(token).location)
    assert page.words("section.start li") == ["Report facts"]
    assert tenant["organization_id"] in page.text
    assert tenant["workspace_id"] in page.text
    for outcome in ("recorded", "duplicate"):
        item = carry_out(edge, command_of(page), token).json()["data"]
        assert item["outcome"] == outcome
    board = guest.get("/ui")
    assert board.status == 403
    assert board.one("section.refusal a")["href"] == "/ui/start"
    assert guest.submit(board, "/ui/sign-out").location == "/"


def test_over_tls_a_command_names_an_address_over_tls(edge: Edge) -> None:
    guest, token = Visitor(edge), edge.token("read", organization_id="ORG-26-000873")
    sent = {"data": {"token": token}, "headers": {"origin": "https://ledger.test"}}
    cookie = guest.request("POST", "/ui/sign-in", **sent).answer.headers["set-cookie"]
    page = guest.get("/ui", headers={"cookie": cookie.split(";")[0]})
    assert shlex.split(command_of(page))[1] == "https://ledger.test/v1/facts"


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("/ui/runs?status=failed&limit=0", "/ui/runs?status=failed"),
        ("/ui/runs?color=red&size=2&status=failed", "/ui/runs?status=failed"),
        ("/ui?state=blocked&as_of=2099-01-01", "/ui?state=blocked"),
        ("/ui/events?cursor=none&type=run.started", "/ui/events?type=run.started"),
        ("/ui/runs?status=failed&status=failed%00", "/ui/runs"),
        ("/ui/runs?from_local=soon", "/ui/runs"),
        ("/ui/as-of?at=soon&next=/ui/runs?status=failed", "/ui/runs?status=failed"),
        ("/ui/as-of?at=soon&next=https://example.com/", "/ui"),
    ],
)
def test_the_page_of_a_wrong_parameter_leads_to_the_page_that_was_meant(
    edge: Edge, wrong: str, meant: str
) -> None:
    guest = visitor(edge)
    page = guest.get(wrong)
    assert page.status in (400, 422)
    link, *_ = page.all("section.refusal a")
    assert (link.get_text(), link["href"]) == ("Show the page without this", meant)
    assert guest.get(meant).status == 200


def test_the_page_of_another_refusal_leads_to_the_board_alone(edge: Edge) -> None:
    page = visitor(edge).get("/ui/lines/LIN-26-999999?as_of=2026-04-01")
    assert page.words("section.refusal a") == ["Go to the board"]
