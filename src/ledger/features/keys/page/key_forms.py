"""The forms about API keys, converted to the API's bodies."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import model_validator

from ledger.engine.http.writing import Sent, checked
from ledger.engine.page.pages import Form, Typed, gathered
from ledger.engine.page.showing import Zone
from ledger.engine.values.errors import Invalid
from ledger.engine.values.values import format_instant
from ledger.engine.writer.request import IdempotencyKey
from ledger.features.keys.routes import keys as api

_PERMISSION = "permission:"
"""Prefix of a permission's box. A field has one value, so each box has its own name."""

LIVES: Mapping[str, tuple[str, int]] = {
    "30": ("in 30 days", 30),
    "90": ("in 90 days", 90),
    "365": ("in a year", 365),
}

GRACES: Mapping[str, str] = {
    "86400": "for 24 hours",
    "604800": "for 7 days",
    "3600": "for an hour",
    "0": "not any more",
}
"""How many seconds a replaced secret still works, with labels."""


class _ExpiryForm(Form):
    expires: Literal["keep", "own", "30", "90", "365", "never", "at"] = "never"
    expires_at: Typed = None

    def chosen_end(self, zone: Zone, now: datetime, own: datetime | None) -> str | None:
        """The chosen expiry for the API. Raises Invalid for an invalid date or time.

        ``own`` is the expiry of the visitor's key.
        """
        if self.expires == "at":
            return zone.meant("expires_at", self.expires_at or "")
        if self.expires == "own":
            return None if own is None else format_instant(own)
        life = LIVES.get(self.expires)
        return None if life is None else format_instant(now + timedelta(days=life[1]))


class NewKeyForm(_ExpiryForm):
    """The form for a new key."""

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        return gathered(values, _PERMISSION, "permissions")

    name: Typed = None
    which: Literal["all", "chosen"] = "chosen"
    permissions: Typed = None
    organization_id: Typed = None
    workspace_id: Typed = None

    @property
    def chosen(self) -> list[str]:
        if self.which == "all":
            return ["admin"]
        return self.permissions.split(",") if self.permissions else []

    def sent_at(
        self, key: IdempotencyKey, zone: Zone, now: datetime, own: datetime | None
    ) -> Sent[api.NewKey]:
        values: dict[str, Any] = {
            "name": self.name,
            "permissions": self.chosen,
            "organization_id": self.organization_id,
            "workspace_id": self.workspace_id,
        }
        values = {name: value for name, value in values.items() if value is not None}
        try:
            values["expires_at"] = self.chosen_end(zone, now, own)
        except Invalid as error:
            return Sent(None, key, error, values)
        return checked(values, api.NewKey, key)


class ChangeKeyForm(_ExpiryForm):
    """The form that changes a key."""

    name: Typed = None

    def sent_at(
        self, key: IdempotencyKey, zone: Zone, now: datetime, own: datetime | None
    ) -> Sent[api.KeyChanges]:
        values = {"name": self.name}
        if self.expires != "keep":
            try:
                values["expires_at"] = self.chosen_end(zone, now, own)
            except Invalid as error:
                return Sent(None, key, error, values)
        return checked(values, api.KeyChanges, key)


class RotateForm(Form):
    """The form that replaces a key's secret."""

    grace_seconds: Literal["86400", "604800", "3600", "0"] = "86400"

    def sent(self, key: IdempotencyKey) -> Sent[api.Rotation]:
        return checked({"grace_seconds": int(self.grace_seconds)}, api.Rotation, key)
