"""What each permission allows, in the words of the page, and what a visitor without it is told."""

import re
from collections.abc import Mapping

PERMISSIONS: Mapping[str, str] = {
    "read": "Read lines, runs and events",
    "write": "Report facts",
    "service_lines:manage": "Pause and resume lines",
    "webhooks:manage": "Manage webhooks",
    "audit:read": "Read the audit log",
    "runs:erase": "Erase runs",
    "keys:manage": "Manage keys",
    "statements:issue": "Issue and withdraw statements",
    "watches:manage": "Manage watches",
    "admin": "Everything, in all organizations",
}
"""The act that each permission allows."""

_LACKING = re.compile(r"The credential lacks the permission (?P<names>[\w:]+(?: or [\w:]+)*)\.")
"""The detail of the API's refusal."""


def without_permission(detail: str) -> str | None:
    """The refusal of a missing permission, with whom to ask; None for any other refusal."""
    found = _LACKING.fullmatch(detail)
    if found is None or "admin" in (names := found["names"].split(" or ")):
        return None
    acts = [PERMISSIONS[name] for name in names]
    refused = " or ".join(f"{act[0].lower()}{act[1:]}" for act in acts)
    needed = " or ".join(f"“{act}” ({name})" for act, name in zip(acts, names, strict=True))
    return f"You may not {refused}. Ask an administrator for the permission {needed}."
