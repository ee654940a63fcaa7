"""Differences between the answers of two versions that are wanted, and requests not compared."""

import re
from typing import NamedTuple

from corpus_request import Answer, Request

LEFT_OUT = {
    "/readyz": "depends on the state of this process; new members are added",
    "/metrics": "counts the work of this process",
    "/openapi.json": "grows with every version, and its descriptions are texts",
    "/docs": "shows /openapi.json",
}
"""The paths that are not compared, and why; the last two are no routes of the OpenAPI document."""


class Wanted(NamedTuple):
    """A wanted difference: patterns of the path and of the old answer's beginning, and a reason."""

    path: str
    old: str
    reason: str


WANTED = (
    Wanted(
        r"/v1/events/export\b",
        r"(404|422) ",
        "events have an export; its path was that of an event, which takes no filters",
    ),
    Wanted(
        r"/v1/runs(/export)?(\?|$)",
        r"(404|422) ",
        "the list of all runs and its export are new",
    ),
    Wanted(
        r"/v1/(execution/LIN-[-0-9]+/runs|runs/RUN-[-0-9]+)(\?|$)",
        r"(200|304) $",
        "the entity tag of runs is that of an answer with more keys",
    ),
    Wanted(
        r"/v1/directory\b",
        r"404 ",
        "the directory is new",
    ),
    Wanted(
        r"/v1/keys\b",
        r"404 ",
        "keys over HTTP are new",
    ),
    Wanted(
        r"/v1/search\b",
        r"404 ",
        "the search is new",
    ),
    Wanted(
        r"/v1/execution(/summary)?\?(.*&)?(health|resource_id|sort)=",
        r"422 ",
        "orders, and filters by health and by resource, are new",
    ),
    Wanted(
        r"/v1/audit-logs(/export)?\?.*[?&]service_line_id=",
        r"422 ",
        "the filter of the audit log by line is new",
    ),
    Wanted(
        r"/v1/audit-logs(/export)?(\?(?!.*organization_id=).*)?$",
        r"422 ",
        "an administrator reads what belongs to no organization",
    ),
    Wanted(
        r"/v1/audit-logs.*outcome=read",
        r"422 ",
        "the audit log tells who read a run's data",
    ),
    Wanted(
        r"/v1/log/proof\?",
        r"404 ",
        "the proof of an event in one document is new",
    ),
    Wanted(
        r"/v1/log/proof/consistency\?",
        r"503 ",
        "a size that the log never had is 422",
    ),
    Wanted(
        r"/v1/execution/LIN-[-0-9]+$",
        r"(200|304) $",
        "the entity tag of a line is that of an answer with more keys",
    ),
    Wanted(
        r"/deliveries\?.*status=pending",
        r"200 ",
        "a delivery that failed an attempt is retrying",
    ),
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
"""An old version that has such a change already answers otherwise, and its answer is compared: a
filter that found entries must go on to find them."""


def wanted(request: Request, old: Answer) -> str | None:
    """The reason why an answer may differ from this old one; None if it may not."""
    beginning = f"{old.status} {old.body[:40].decode(errors='replace')}"
    for each in WANTED:
        if re.search(each.path, request.path) and re.match(each.old, beginning):
            return each.reason
    return None
