"""How far a page is behind the log, and behind what its visitor wrote.

Views follow the log within moments. If they do not, a page shows an old state, and says so. A
cookie has the position of the latest write of this browser, so that any page after a write knows
whether it shows the write.
"""

from contextlib import suppress
from datetime import timedelta

from fastapi import Request, Response

from ledger.engine.http.reading import ReadRequest, services_of
from ledger.engine.page.frame import frame_of
from ledger.engine.reads.question import Answer, Question
from ledger.engine.values.principal import EVERYONE
from ledger.engine.writer.request import Receipt

COOKIE = "ledger_written"

_COOKIE_SECONDS = 600
_TOLERANCE = timedelta(seconds=3)
"""A page that lags less than this behind the writes of others says nothing."""

MOST = 1000
"""More events behind are not counted."""

_NAMES_ONLY = frozenset({"directory", "search"})
"""Views that give only names to a page."""

# The events that a page does not show, and when the first of them was recorded. (A position may
# have no event.)
_UNSHOWN = """
SELECT ledger.events_between(%(shown)s + 1, NULL, %(most)s + 1),
    COALESCE(ledger.recorded_at(%(shown)s + 1), ledger.recorded_at(ledger.log_end()))
"""


class PageRequest(ReadRequest):
    """The reads of a page. Its lag has the lowest position of the answers about the present."""

    async def ask(self, question: Question) -> Answer:
        answer = await super().ask(question)
        if question.as_of is None and not question.read.views <= _NAMES_ONLY:
            lag_of(self.http).show(answer.position)
        return answer


class Lag:
    """The lag of a page, set once the page has read all that it shows."""

    def __init__(self) -> None:
        self.position: int | None = None
        """The position that the page shows; None: it has read nothing about now."""
        self.sentence = ""
        """The lag as a sentence; empty if there is nothing to say."""

    def show(self, position: int) -> None:
        self.position = position if self.position is None else min(self.position, position)

    async def load(self, request: Request) -> None:
        """Find out how far the page is behind. Raises the database's error."""
        if self.position is None:
            return
        services, (position, action) = services_of(request), _written(request)
        values = {"shown": self.position, "most": MOST}
        ((behind, since),) = await services.pool.fetch(EVERYONE, _UNSHOWN, values)
        is_own = position > self.position
        if not behind or not (is_own or services.clock() - since > _TOLERANCE):
            return
        count = f"{behind:,}" if behind <= MOST else f"more than {MOST:,}"
        done = f"{frame_of(request).label_of(action)}. " if is_own and action else ""
        self.sentence = f"{done}This page is {count} event{'s' * (behind != 1)} behind."


def lag_of(request: Request) -> Lag:
    state = request.scope["state"]
    found: Lag = state.setdefault("lag", Lag())
    return found


def _written(request: Request) -> tuple[int, str]:
    """The position of the browser's latest write, and the action; (0, "") without one."""
    with suppress(ValueError):
        position, _, action = request.cookies.get(COOKIE, "").partition("~")
        return int(position), action
    return 0, ""


def keep_written(request: Request, response: Response) -> None:
    """Keep the position of the request's write, if it has recorded something."""
    receipt: Receipt | None = getattr(request.state, "receipt", None)
    if receipt is not None and receipt.position:  # of many lines, none may have changed
        response.set_cookie(
            COOKIE,
            f"{receipt.position}~{request.state.action}",
            max_age=_COOKIE_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.state.session.secure,
        )
