"""A visitor of the pages without a browser: cookies, forms with their values, parsed HTML."""

from functools import cached_property
from typing import Any, Self

import httpx
from bs4 import BeautifulSoup, Tag

from tests.support.edge import Edge


class Visited:
    """An answer, with its HTML."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer, self.status = answer, answer.status_code

    @cached_property
    def html(self) -> BeautifulSoup:
        """The parsed page: parsing takes as long as the request."""
        return BeautifulSoup(self.answer.text, "html.parser")

    @property
    def text(self) -> str:
        """The text of the page, with single spaces between words."""
        return " ".join(self.html.get_text(" ").split())

    @property
    def location(self) -> str:
        """The address of the redirect."""
        return self.answer.headers["location"]

    def all(self, selector: str) -> list[Tag]:
        return list(self.html.select(selector))

    def one(self, selector: str) -> Tag:
        (found,) = self.html.select(selector)
        return found

    def words(self, selector: str) -> list[str]:
        """The text of each element."""
        return [" ".join(tag.get_text(" ").split()) for tag in self.all(selector)]

    def form(self, action: str) -> dict[str, str]:
        """The fields of a form with their values; of several, of the one that changes something."""
        selector = f'form[action="{action}"]'
        form = self.one(f"{selector}[method=post]" if len(self.all(selector)) > 1 else selector)
        fields = {}
        for field in form.select("input[name], textarea[name]"):
            if field.get("type") not in ("checkbox", "radio") or field.has_attr("checked"):
                fields[str(field["name"])] = str(field.get("value") or field.get_text())
        for field in form.select("select[name]"):
            chosen = field.select_one("option[selected]") or field.select_one("option")
            fields[str(field["name"])] = str(chosen["value"]) if chosen is not None else ""
        return fields


class Visitor:
    """A client with cookies, for tests that need no browser. Redirects are not followed."""

    def __init__(self, edge: Edge, token: str | None = None) -> None:
        self._edge = edge
        transport = httpx.ASGITransport(app=edge.service.app)
        is_secure = edge.service.app.state.services.is_public_by_https
        address = f"http{'s' if is_secure else ''}://ledger.test"
        self.http = httpx.AsyncClient(transport=transport, base_url=address)
        if token is not None:
            assert self.sign_in(token).status == 303

    def request(self, method: str, path: str, **options: Any) -> Visited:
        return Visited(self._edge.run(self.http.request(method, path, **options)))

    def get(self, path: str, **options: Any) -> Visited:
        return self.request("GET", path, **options)

    def post(self, path: str, fields: dict[str, Any], **options: Any) -> Visited:
        return self.request("POST", path, data=fields, **options)

    def submit(self, page: Visited, action: str, **fields: str) -> Visited:
        """Send a form of a page, with these fields filled in."""
        return self.post(action, page.form(action) | fields)

    def sign_in(self, token: str, **fields: str) -> Visited:
        return self.post("/ui/sign-in", {"token": token, **fields})

    def signed_out(self) -> Self:
        self.http.cookies.clear()
        return self


def visitor(edge: Edge, *permissions: Any, **tenant: str | None) -> Visitor:
    """A visitor who has signed in, with these permissions."""
    return Visitor(edge, edge.token(*(permissions or ("read",)), **tenant))
