"""Facts that are reported in the background, to a fake service that a test turns off and on."""

from collections.abc import Callable

from execution_ledger import Ledger

from tests.client.support import Reply, Request, StandIn, accept

LINE = "LIN-26-000001"


class Switch:
    """A stand-in's answer that a test changes."""

    def __init__(self) -> None:
        self.answer: Callable[[Request], Reply] = accept

    def __call__(self, request: Request) -> Reply:
        return self.answer(request)

    def away(self) -> None:
        """Close each connection without an answer."""
        self.answer = lambda _: Reply(0)

    def back(self) -> None:
        """Record each fact."""
        self.answer = accept


def numbers(stand_in: StandIn) -> list[int]:
    """The numbers of the facts that arrived in requests, in their order."""
    batches = [request.json for request in stand_in.requests if request.body]
    return [fact["data"]["n"] for batch in batches for fact in batch]


def report(ledger: Ledger, *of: int) -> None:
    """Report numbered facts."""
    for number in of:
        ledger.report("execution.checked_in", LINE, {"n": number}, id=f"fact-{number}")


def even_ones(request: Request) -> Reply:
    """The answer that refuses facts with an odd number."""
    reply = accept(request)
    for item, fact in zip(reply.body["data"], request.json, strict=True):
        if fact["data"]["n"] % 2:
            error = {"status": 409, "code": "invalid_state", "detail": "Odd.", "errors": []}
            item |= {"outcome": "refused", "error": error}
    return reply
