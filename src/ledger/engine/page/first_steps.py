"""Commands to copy for those who begin: the first fact, run, key and endpoint.

The pages that are still empty show them, and the page of a credential that may only report. Each
command names the address by which the browser came.
"""

import hashlib
import json
import shlex
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fastapi import Request

from ledger.engine.http.reading import services_of
from ledger.engine.values.principal import Principal


class FirstSteps(NamedTuple):
    """The commands for a visitor, who puts a key into the variable ``TOKEN``."""

    request: Request
    principal: Principal

    @property
    def line(self) -> str:
        """The id of the first line: another one for each organization, so that none is taken."""
        digest = hashlib.sha256(self.principal.tenant_key.encode()).digest()
        year = services_of(self.request).clock().year % 100
        return f"LIN-{year:02}-{int.from_bytes(digest[:4]) % 900_000 + 100_000}"

    def fact(self) -> str:
        return self._report(
            "service_line.activated",
            self.line,
            organization_id=self.principal.organization_id or "ORG-26-000001",
            workspace_id=self.principal.workspace_id or "WS-26-000001",
            product_line="agent_gateway",
            execution_model="agent_runtime",
            name="My first line",
        )

    def run(self, line_id: str | None = None) -> str:
        """Starts a run of the line, or of the first one."""
        return self._report("run.started", None, service_line_id=line_id or self.line)

    def key(self) -> str:
        return self._post("/v1/keys", name="my program", permissions=["write"], **self._owner)

    def endpoint(self) -> str:
        url = "https://example.com/webhooks"
        return self._post("/v1/webhooks", url=url, event_types=["*"], **self._owner)

    @property
    def _owner(self) -> dict[str, str]:
        return {"organization_id": "ORG-26-000001"} if self.principal.is_admin else {}

    def _report(self, type_: str, subject: str | None, **data: Any) -> str:
        named = {} if subject is None else {"subject": subject}
        about = {"specversion": "1.0", "id": f"first-{type_}", "source": "/first", "type": type_}
        return self._post("/v1/facts", **about, **named, data=data)

    def _post(self, path: str, **body: Any) -> str:
        return (
            f"curl {shlex.quote(address_of_visit(self.request) + path)}"
            ' -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json"'
            f" -d {shlex.quote(json.dumps(body))}"
        )


def address_of_visit(request: Request) -> str:
    # Behind a proxy that ends TLS, only the browser's Origin header shows that TLS is used: that of
    # a form, or the one with which the session began.
    scheme = urlsplit(request.headers.get("origin", "")).scheme
    if not scheme:
        is_secure = request.state.session is not None and request.state.session.secure
        scheme = "https" if is_secure else request.url.scheme
    return f"{scheme}://{request.headers.get('host', '')}{services_of(request).root_path}"
