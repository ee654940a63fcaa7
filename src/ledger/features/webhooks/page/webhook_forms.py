"""The forms about webhook endpoints, converted to the API's bodies."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ledger.engine.http.writing import Sent, checked
from ledger.engine.page.pages import Form, Typed, gathered
from ledger.engine.page.showing import Zone
from ledger.engine.values.errors import Invalid
from ledger.engine.values.event_table import EVERY_TYPE
from ledger.engine.writer.request import IdempotencyKey
from ledger.features.webhooks.model.views import ShownEndpoint
from ledger.features.webhooks.routes import bodies as api

_TYPE = "type:"
"""Prefix of the names of the boxes for event types. A field has one value, so names differ."""

RECOVERY = timedelta(hours=24)
"""How far back the suggested recovery starts if no failure is known."""

MARGIN = timedelta(hours=1)
"""How long before the first failure a recovery starts, since an event is recorded before it fails.

This does no harm: a recovery sends no delivered event again."""


class SettingsForm(Form):
    """The settings of an endpoint."""

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        return gathered(values, _TYPE, "event_types")

    url: Typed = None
    which: Literal["all", "chosen"] = "chosen"
    event_types: Typed = None
    description: Typed = None

    @property
    def types(self) -> list[str]:
        if self.which == "all":
            return [EVERY_TYPE]
        return self.event_types.split(",") if self.event_types else []


class NewForm(SettingsForm):
    """The form for a new endpoint."""

    organization_id: Typed = None
    workspace_id: Typed = None

    def sent(self, key: IdempotencyKey) -> Sent[api.NewWebhook]:
        body = {
            "url": self.url,
            "event_types": self.types,
            "description": self.description,
            "organization_id": self.organization_id,
            "workspace_id": self.workspace_id,
        }
        return checked({k: v for k, v in body.items() if v is not None}, api.NewWebhook, key)


class ChangeForm(SettingsForm):
    """The form that replaces all settings."""

    def sent(self, key: IdempotencyKey) -> Sent[api.WebhookChanges]:
        body = {
            "url": self.url or "",
            "event_types": self.types,
            "description": self.description,
        }
        return checked(body, api.WebhookChanges, key)


class SwitchForm(Form):
    """The form that enables or disables an endpoint."""

    enabled: Literal["true", "false"]

    def sent(self, key: IdempotencyKey) -> Sent[api.WebhookChanges]:
        return checked({"enabled": self.enabled == "true"}, api.WebhookChanges, key)


class RecoverForm(Form):
    """The form for a recovery. A person types its start."""

    since: Annotated[str | None, Field(max_length=40)] = None

    def sent_in(self, zone: Zone, key: IdempotencyKey) -> Sent[api.Recovery]:
        """The recovery as the API takes it. The start is in the page's time zone."""
        try:
            since = zone.meant("since", self.since or "")
        except Invalid as error:
            return Sent(None, key, error)
        return checked({"since": since}, api.Recovery, key)


def typed(form: Form | None, endpoint: ShownEndpoint | None = None) -> Mapping[str, Any]:
    """The values of the settings' fields: what was typed, or the endpoint's, or defaults."""
    if isinstance(form, SettingsForm):
        return form.model_dump() | {"types": form.types}
    if endpoint is None:
        return {"which": "all", "types": (), "url": None, "description": None}
    every = endpoint.event_types == [EVERY_TYPE]
    return {
        "which": "all" if every else "chosen",
        "types": endpoint.event_types,
        "url": endpoint.url,
        "description": endpoint.description,
    }


def since_when(endpoint: ShownEndpoint, now: datetime) -> datetime:
    """The start of a recovery that the page suggests."""
    failing = endpoint.status.failing_since if endpoint.status is not None else None
    return failing - MARGIN if failing is not None else now - RECOVERY
