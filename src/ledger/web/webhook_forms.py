"""What the forms about webhook endpoints send, as the API's own models take it."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from ledger.api import webhook_models as models
from ledger.api.writing import Sent, checked
from ledger.domain.endpoint import EVERY_TYPE
from ledger.domain.errors import Invalid
from ledger.intake.request import IdempotencyKey
from ledger.web.pages import Form
from ledger.web.showing import Zone

_TYPE = "type:"
"""A type's box is called so: a form's field has one value here, so boxes cannot share a name."""

# Longer than what the models take: they say what is too long, and the page shows it again.
Typed = Annotated[str | None, Field(max_length=5000)]

RECOVERY = timedelta(hours=24)
"""How far a recovery goes back where nothing says from when on deliveries failed."""

MARGIN = timedelta(hours=1)
"""What failed first was recorded a while before it did; what was delivered is not sent again."""


class SettingsForm(Form):
    """What an endpoint's owner sets."""

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        boxes = [name for name in values if name.startswith(_TYPE)]
        rest = {name: value for name, value in values.items() if name not in boxes}
        return rest | {"event_types": ",".join(name.removeprefix(_TYPE) for name in boxes)}

    url: Typed = None
    which: Literal["all", "chosen"] = "chosen"
    event_types: Typed = None
    description: Typed = None

    @property
    def types(self) -> list[str]:
        """The types that are asked for."""
        if self.which == "all":
            return [EVERY_TYPE]
        return self.event_types.split(",") if self.event_types else []


class NewForm(SettingsForm):
    """An endpoint to be set up."""

    organization_id: Typed = None
    workspace_id: Typed = None

    def sent(self, key: IdempotencyKey) -> Sent[models.NewWebhook]:
        """As the API takes it."""
        said = {
            "url": self.url,
            "event_types": self.types,
            "description": self.description,
            "organization_id": self.organization_id,
            "workspace_id": self.workspace_id,
        }
        return checked({k: v for k, v in said.items() if v is not None}, models.NewWebhook, key)


class ChangeForm(SettingsForm):
    """All settings as they are to be."""

    def sent(self, key: IdempotencyKey) -> Sent[models.WebhookChanges]:
        """As the API takes it."""
        said = {
            "url": self.url or "",
            "event_types": self.types,
            "description": self.description,
        }
        return checked(said, models.WebhookChanges, key)


class SwitchForm(Form):
    """Whether it is to be told events at all."""

    enabled: Literal["true", "false"]

    def sent(self, key: IdempotencyKey) -> Sent[models.WebhookChanges]:
        """As the API takes it."""
        return checked({"enabled": self.enabled == "true"}, models.WebhookChanges, key)


class RecoverForm(Form):
    """From when on, as a person writes it."""

    since: Annotated[str | None, Field(max_length=40)] = None

    def sent(self, key: IdempotencyKey, zone: Zone) -> Sent[models.Recovery]:
        """As the API takes it, from an instant of the page's zone."""
        try:
            since = zone.meant("since", self.since or "")
        except Invalid as error:
            return Sent(None, key, error)
        return checked({"since": since}, models.Recovery, key)


def nothing(key: IdempotencyKey) -> Sent[models.Nothing]:
    """A command that says no more than its name."""
    return Sent(models.Nothing(), key, None)


def typed(settings: BaseModel | None) -> Mapping[str, Any]:
    """What a form's fields show: an endpoint's settings, or what was typed; None: a new form's."""
    if settings is None:
        return {"which": "all", "types": (), "url": None, "description": None}
    if isinstance(settings, SettingsForm):
        return settings.model_dump() | {"types": settings.types}
    assert isinstance(settings, models.WebhookModel)
    every = settings.event_types == [EVERY_TYPE]
    return {
        "which": "all" if every else "chosen",
        "types": settings.event_types,
        "url": settings.url,
        "description": settings.description,
    }


def since_when(endpoint: models.WebhookModel, now: datetime) -> datetime:
    """From when on a recovery is offered."""
    failing = endpoint.status.failing_since if endpoint.status is not None else None
    return failing - MARGIN if failing is not None else now - RECOVERY
