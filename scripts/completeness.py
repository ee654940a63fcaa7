"""Prove against a running service that no event was missed: pulled, streamed or pushed.

    python scripts/completeness.py --url http://127.0.0.1:8000 --token elk_… [--seconds 20]
    python scripts/completeness.py … --receive 9000     also by webhook, to a receiver of its own

The script follows the stream for a while. With ``--receive`` it also sets up a webhook endpoint,
takes its deliveries, and removes it. (On the service's own machine this needs
LEDGER_WEBHOOK_ALLOW_PRIVATE.) Meanwhile other users of the ledger make the events.

Then the script reads the feed again from its starting point, and compares:

* The stream must have exactly the feed's events in the feed's order.
* The states of each line must form an unbroken chain.
* The sequence numbers of the deliveries must have no gap, and name exactly the feed's events.

Exit code 1: an event is missing, and its id is printed.
"""

import argparse
import json
import queue
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import httpx
from standardwebhooks import Webhook, WebhookVerificationError

PAGE = 100
DELIVERED_WITHIN = 60.0  # seconds to wait for outstanding deliveries

Event = dict[str, Any]


class Ledger:
    """The requests of a consumer."""

    def __init__(self, url: str, token: str) -> None:
        self.http = httpx.Client(
            base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=30
        )

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """Send a request, and return the answer's JSON. Anything but a success ends the check."""
        try:
            answer = self.http.request(method, path, **options)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise SystemExit(f"{self.http.base_url} cannot be reached: {error}.") from error
        if not answer.is_success:
            raise SystemExit(f"{method} {path} answered {answer.status_code}: {answer.text[:300]}")
        return answer.json() if answer.content else None

    def feed(self, after: str) -> list[Event]:
        """Every event after the event ``after``, pulled page by page."""
        events: list[Event] = []
        query: dict[str, Any] = {"after": after, "limit": PAGE}
        while True:
            page = self.ask("GET", "/v1/events", params=query)
            events += page["data"]
            if not page["meta"]["has_more"]:
                return events
            query["cursor"] = page["meta"]["cursor"]

    def stream(self, ready: "queue.Queue[str]", seconds: float) -> Iterator[Event]:
        """Events as they come. Puts the id after which the stream begins into ``ready``."""
        give_up, last = time.monotonic() + seconds, ""
        while time.monotonic() < give_up:
            headers = {"last-event-id": last} if last else {}
            timeout = httpx.Timeout(30, read=max(0.1, give_up - time.monotonic()))
            try:
                with self.http.stream(
                    "GET", "/v1/events/stream", headers=headers, timeout=timeout
                ) as answer:
                    answer.raise_for_status()
                    last = last or event_id_at(int(answer.headers["ledger-position"]))
                    ready.put(last)
                    for line in answer.iter_lines():
                        if line.startswith("data:"):
                            event = json.loads(line[5:])
                            last = event["id"]
                            yield event
                        if time.monotonic() > give_up:
                            return
            except httpx.TransportError:
                continue  # disconnected or silent: reconnect after the last event that came


def event_id_at(position: int) -> str:
    """An event id with this position. ``after`` ignores the year in the id."""
    return f"EVT-{time.gmtime().tm_year % 100:02d}-{position:06d}"


class Receiver:
    """The receiver of the script's endpoint: verifies each delivery and keeps the event's id."""

    def __init__(self, port: int) -> None:
        self.by_sequence: dict[int, str] = {}
        self.forged = 0
        self.secret = ""
        self.arrived = threading.Condition()
        handler = type("Handler", (_Handler,), {"receiver": self})
        try:
            self.server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError as error:
            raise SystemExit(f"Cannot listen on port {port}: {error.strerror}.") from error
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def receive(self, body: bytes, headers: dict[str, str]) -> None:
        """Store a delivery's id, once even if it comes again. Raises WebhookVerificationError."""
        event = Webhook(self.secret).verify(body, headers)
        with self.arrived:
            self.by_sequence[event["sequence"]] = event["id"]
            self.arrived.notify_all()

    def await_all(self, latest: int) -> None:
        """Wait until all sequence numbers up to the latest have come, or the time is over."""
        with self.arrived:
            self.arrived.wait_for(
                lambda: self.by_sequence.keys() >= set(range(1, latest + 1)), DELIVERED_WITHIN
            )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    receiver: ClassVar[Receiver]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            self.receiver.receive(body, {k.lower(): v for k, v in self.headers.items()})
            self.send_response(204)
        except WebhookVerificationError:
            self.receiver.forged += 1
            self.send_response(400)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Write no log."""


def broken_chains(events: list[Event]) -> list[str]:
    """The events whose state before differs from the state after the line's previous event."""
    states: dict[str, str] = {}
    broken = []
    for event in events:
        if not event["type"].startswith("execution."):
            continue
        line, payload = event["service_line_id"], event["payload"]
        if states.get(line, payload["state_before"]) != payload["state_before"]:
            broken.append(f"{line}: the chain of states breaks at {event['id']}")
        states[line] = payload["state_after"]
    return broken


def differences(name: str, got: list[str], feed: list[str]) -> list[str]:
    """The events that a way of following has missed, has too often, or has in another order."""
    missing, extra = set(feed) - set(got), set(got) - set(feed)
    found = [f"{name}: {event} is missing" for event in sorted(missing)]
    found += [f"{name}: {event} is not in the feed" for event in sorted(extra)]
    if not found and got != feed:
        found.append(f"{name}: the order is not the feed's")
    return found


def check(ledger: Ledger, seconds: float, port: int | None) -> list[str]:
    """Follow for a while, then compare; return a line for each fault."""
    ledger.ask("GET", "/v1/events", params={"limit": 1})  # ends the check if refused
    streamed: list[Event] = []
    ready: queue.Queue[str] = queue.Queue()
    follower = threading.Thread(
        target=lambda: streamed.extend(ledger.stream(ready, seconds)), daemon=True
    )
    follower.start()
    start = ready.get(timeout=30)
    receiver = endpoint = None
    if port is not None:
        receiver = Receiver(port)
        settings = {"url": f"http://127.0.0.1:{port}/", "event_types": ["*"]}
        endpoint = ledger.ask("POST", "/v1/webhooks", json=settings)["data"]
        receiver.secret = endpoint["secret"]
    follower.join()
    feed = ledger.feed(start)
    ids = [event["id"] for event in feed]
    # The stream ended at some event; later events are only in the feed.
    last = streamed[-1]["position"] if streamed else 0
    in_stream = [event["id"] for event in feed if event["position"] <= last]
    wrong = differences("stream", [event["id"] for event in streamed], in_stream) + broken_chains(
        feed
    )
    print(f"{len(in_stream):,} events streamed, {len(ids):,} in the feed after {start}")
    if receiver is not None and endpoint is not None:
        wrong += check_deliveries(ledger, receiver, endpoint)
    return wrong


def check_deliveries(ledger: Ledger, receiver: Receiver, endpoint: Event) -> list[str]:
    """Stop the endpoint, then compare its deliveries with the feed since it was set up."""
    path = f"/v1/webhooks/{endpoint['id']}"
    ledger.ask("PATCH", path, json={"enabled": True, "event_types": ["webhook.delivery_failed"]})
    latest = ledger.ask("GET", path)["data"]["status"]["sequence"]
    receiver.await_all(latest)
    came = [receiver.by_sequence[number] for number in sorted(receiver.by_sequence)]
    gaps = set(range(1, latest + 1)) - receiver.by_sequence.keys()
    wrong = [f"webhook: number {number} did not come" for number in sorted(gaps)]
    wrong += ["webhook: a signature did not verify"] * bool(receiver.forged)
    if came and not wrong:
        pulled = [e["id"] for e in ledger.feed(event_id_before(came[0]))]
        wrong += differences("webhook", came, pulled[: len(came)])
    ledger.ask("DELETE", path)
    print(f"{len(came):,} of {latest:,} deliveries came, each signature verified")
    return wrong


def event_id_before(identifier: str) -> str:
    """The id after which the feed must begin, so that this event is the first."""
    return event_id_at(int(identifier.rsplit("-", 1)[1]) - 1)


def main() -> int:
    """Read the options, check, and print the faults."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--token", required=True)
    parser.add_argument("--seconds", type=float, default=20, help="how long to follow (20)")
    parser.add_argument("--receive", type=int, metavar="PORT", help="take webhooks on this port")
    args = parser.parse_args()
    wrong = check(Ledger(args.url, args.token), args.seconds, args.receive)
    for line in wrong:
        print(line, file=sys.stderr)
    print("Faults were found." if wrong else "No event was missed.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
