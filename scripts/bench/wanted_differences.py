"""What of the answers is not compared between versions, and why."""

import re
from typing import NamedTuple

from corpus_request import Answer, Request

LEFT_OUT = {
    "/readyz": "says how far this process is; new members are added",
    "/metrics": "counts what this process did",
    "/openapi.json": "grows with every version, and its descriptions are words",
    "/docs": "shows that document",
}
"""What is not asked, and why; the last two are no part of the document."""


class Wanted(NamedTuple):
    """A difference that is wanted: where, from what an old answer begins with, and why."""

    path: str
    old: str
    reason: str


WANTED = (
    Wanted(
        r"/v1/audit-logs.*[?&]action=",
        r"200 (\{\"data\":\[\],|$)",
        "a filter of the audit log by the type of an event finds its writes",
    ),
    Wanted(
        r"/v1/audit-logs.*[?&]action=(no\.such_|xxx)",
        r"200 ",
        "a filter of the audit log by a word that means nothing is 422",
    ),
)
"""A version that has such a change itself answers otherwise, and is compared: where it found
something before, it must go on to find that."""


def wanted(request: Request, old: Answer) -> str | None:
    """Why an answer may differ from this old one; None: it may not."""
    said = f"{old.status} {old.body[:40].decode(errors='replace')}"
    for each in WANTED:
        if re.search(each.path, request.path) and re.match(each.old, said):
            return each.reason
    return None
