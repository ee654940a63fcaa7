"""The part of the tale about webhooks: endpoints, their receiver's answers, and their fates."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from teller import Teller

OTHER, LINE, SECOND = "ORG-26-000002", "LIN-26-000001", "WS-26-000002"


class Receiver:
    """Answers each path with the path's present status."""

    def __init__(self) -> None:
        self.statuses = {"/taken": 200, "/mends": 500, "/broken": 503, "/gone": 410, "/back": 410}
        handler = type("Handler", (_Handler,), {"statuses": self.statuses})
        self.server = _Server(("127.0.0.1", 0), handler)

    def url(self, path: str) -> str:
        """The address of a path."""
        return f"http://127.0.0.1:{self.server.server_port}{path}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Ignore errors: a sender may disconnect at any time."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    statuses: ClassVar[dict[str, int]]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = "said: ü".encode()
        self.send_response(self.statuses[self.path])
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver, while the block lasts."""
    receiver = Receiver()
    threading.Thread(target=receiver.server.serve_forever, daemon=True).start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()


def set_up(teller: Teller, receiver: Receiver) -> dict[str, str]:
    """Create an endpoint for every fate; return their ids by name."""

    def create(path: str, *types: str, role: str = "organization", **more: object) -> str:
        body = {"url": receiver.url(path), "event_types": list(types), **more}
        answer = teller.command("POST", "/v1/webhooks", body, role=role, status=201)
        return str(answer["data"]["id"])

    return {
        "all": create("/taken", "*", description="All: ü 🚀"),
        "mends": create("/mends", "execution.blocked", "execution.unblocked"),
        "broken": create("/broken", "execution.started", "webhook.delivery_failed"),
        "gone": create("/gone", "run.failed"),
        "back": create("/back", "run.cancelled"),
        "off": create("/taken", "*", enabled=False),
        "deleted": create("/taken", "run.completed"),
        "workspace": create("/taken", "execution.checked_in", role="workspace"),
        "bound": create("/taken", "run.started", workspace_id=SECOND),
        "other": create("/taken", "*", role="other"),
        "admin": create("/taken", "run.erased", role="admin", organization_id=OTHER),
    }


def go_on(teller: Teller, receiver: Receiver, hooks: dict[str, str]) -> None:
    """Let each endpoint meet its fate: change, failure, recovery, the end."""
    path = {name: f"/v1/webhooks/{hook}" for name, hook in hooks.items()}
    since = {"since": teller.ago(hours=1)}

    def data(name: str) -> dict[str, object]:
        found: dict[str, object] = teller.get(path[name])["data"]
        return found

    def has_settled(name: str, role: str = "organization") -> bool:
        open_ = ("pending", "retrying")
        lists = (f"{path[name]}/deliveries?status={status}" for status in open_)
        return not any(teller.get(each, role)["data"] for each in lists)

    for name in ("mends", "broken"):
        failed = f"{path[name]}/deliveries?status=failed"
        teller.wait(lambda at=failed: teller.get(at)["data"], f"failed deliveries of {name}")
    for name in ("gone", "back"):
        teller.wait(lambda at=name: data(at)["disabled_reason"] == "gone", f"the end of {name}")
    receiver.statuses |= {"/mends": 204, "/back": 200}
    teller.wait(lambda: has_settled("mends"), "all failures")
    teller.command("POST", f"{path['mends']}/recover", since, status=202)
    teller.command("PATCH", path["back"], {"enabled": True, "description": "Back"})
    teller.command("POST", f"{path['gone']}/recover", since, status=409)
    teller.command("POST", f"{path['all']}/rotate-secret")
    teller.command("POST", f"{path['all']}/test", status=202)
    teller.command("POST", f"{path['off']}/test", status=202)
    teller.command("PATCH", path["bound"], {"event_types": ["run.started", "run.failed"]})
    teller.command("PATCH", path["bound"], {"workspace_id": "WS-26-000001"}, status=422)
    teller.command("POST", "/v1/webhooks", {"url": "ftp://x", "event_types": ["*"]}, status=422)
    teller.command("GET", path["other"], status=404)
    teller.wait(lambda: has_settled("deleted"), "deliveries of one that goes")
    teller.command("DELETE", path["deleted"], status=204)
    teller.report(teller.fact("execution.checked_in", LINE, hours=2))
    for name in ("all", "mends", "broken", "back", "bound"):
        teller.wait(lambda at=name: has_settled(at), f"deliveries of {name}")
    for name, role in (("workspace", "workspace"), ("other", "other"), ("admin", "other")):
        teller.wait(lambda at=name, by=role: has_settled(at, by), f"all of {name}")
    first = teller.get(f"{path['all']}/deliveries?status=delivered")["data"][0]["event_id"]
    teller.command("POST", f"{path['all']}/deliveries/{first}/resend", status=202)
    teller.wait(lambda: has_settled("all"), "a delivery that is sent again")
