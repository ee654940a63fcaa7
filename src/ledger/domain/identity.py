"""Identities: an event that has an identity is recorded once, however often it is reported."""

import hashlib
from typing import NamedTuple


class Identity(NamedTuple):
    """The identity of an event within its organization.

    A fact has the source and id that its sender chose, and neither is empty. Identities that the
    ledger makes have an empty source, so no fact can have them.
    """

    organization_id: str
    source: str
    name: str

    @property
    def void(self) -> "Identity":
        """The identity of the void of the check-in that this fact reported."""
        return Identity(self.organization_id, "", f"{self.source}\0{self.name}")

    @property
    def digest(self) -> bytes:
        """The stored form: the first 16 bytes of SHA-256. No sent text contains NUL."""
        return hashlib.sha256("\0".join(self).encode()).digest()[:16]


def of_run(organization_id: str, source: str, name: str) -> Identity:
    return Identity(organization_id, "", f"{source}\0{name}\0run")


def of_delivery(organization_id: str, endpoint_id: str, event_id: str, round_: int) -> Identity:
    return Identity(organization_id, "", f"{endpoint_id}/{event_id}/{round_}")
