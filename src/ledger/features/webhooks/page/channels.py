"""The dialog in which people set up channels and test them (``/ui/webhooks/channel``).

A channel is an endpoint that notifies people, and its address is a secret. So the browser sends the
URL or key once, and no page contains it, not even the page of a refused form.
"""

import re
from collections.abc import Awaitable, Mapping
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Response
from pydantic import Field, model_validator

from ledger.engine.http.lean import command_route, needs
from ledger.engine.http.reading import Identifier, Present, ReadRequest
from ledger.engine.http.replies import AnswerOf, PageOf
from ledger.engine.http.writing import checked
from ledger.engine.page import pages
from ledger.engine.page.addresses import with_parameter
from ledger.engine.page.managed import Managed, RefusedForm
from ledger.engine.values.errors import Invalid
from ledger.engine.values.event_table import EVERY_TYPE
from ledger.engine.values.values import EVENT_ID
from ledger.engine.writer.request import IdempotencyKey
from ledger.features.watches.alerts import names_of_watches
from ledger.features.watches.model.watch import Severity
from ledger.features.webhooks.commands import CreateEndpoint, TestEndpoint, UpdateEndpoint
from ledger.features.webhooks.delivery.signing import ShownDelivery
from ledger.features.webhooks.model import channel
from ledger.features.webhooks.model.views import ShownEndpoint
from ledger.features.webhooks.page.webhook_forms import SettingsForm
from ledger.features.webhooks.routes import webhooks as api
from ledger.features.webhooks.routes.bodies import NewWebhook, WebhookChanges

PATH = "/ui/webhooks"
router = APIRouter(prefix=PATH, include_in_schema=False, route_class=pages.PageRoute)

_PERMISSION = "webhooks:manage"

_WATCH = "watch:"
"""Prefix of the names of the boxes for watches."""

ALERTS = sorted(channel.CHANNEL_TYPES - {channel.DELIVERY_FAILED})
"""The event types of a new channel, unless a person chooses others."""

REGIONS = dict(zip(channel.PAGERDUTY, ("United States", "Europe"), strict=True))
"""The URLs of PagerDuty, with their names on the page."""

FIELDS: Mapping[channel.Channel, str] = {
    "slack": "url",
    "pagerduty": "region",
    "email": "addresses",
}
"""The form's field for the URL of each kind of channel."""


class ChannelForm(SettingsForm):
    """The form that sets up a channel, or replaces its settings. A change needs no address."""

    @model_validator(mode="before")
    @classmethod
    def _gather_watches(cls, values: Any) -> Any:
        return pages.gathered(values, _WATCH, "watch_ids")

    format: channel.Channel = "slack"
    addresses: pages.Typed = None
    region: pages.Typed = None
    routing_key: pages.Typed = None
    min_severity: Severity = "info"
    watches: Literal["all", "chosen"] = "all"
    watch_ids: pages.Typed = None
    details: Literal["on"] | None = None
    organization_id: pages.Typed = None
    workspace_id: pages.Typed = None

    @property
    def is_more(self) -> bool:
        """True if a field behind *more* is filled in."""
        is_plain = sorted(self.types) == ALERTS and self.details is not None
        return not is_plain or self.workspace_id is not None

    @property
    def watched(self) -> list[str]:
        return self.watch_ids.split(",") if self.watch_ids else []

    def body(self, *more: str) -> dict[str, Any]:
        """The settings as the API takes them, with the fields of ``more`` that are filled in."""
        url = getattr(self, FIELDS[self.format])
        if url is not None and self.format == "email":
            url = "mailto:" + ",".join(re.findall(r"[^\s,;]+", url))
        values = {"url": url, **{name: getattr(self, name) for name in more}}
        if self.format == "pagerduty":
            values["routing_key"] = self.routing_key
        return {
            **{name: value for name, value in values.items() if value is not None},
            "event_types": self.types,
            "watch_ids": None if self.watches == "all" else self.watched,
            "min_severity": self.min_severity,
            "details": self.details is not None,
            "description": self.description,
        }


class NewChannelQuery(Present):
    """The parameters of the form for a new channel: values that it begins with."""

    watch_id: Identifier = None
    organization_id: Identifier = None


class TestedQuery(Present):
    """The parameter of a test's page: the event of the test."""

    test: Annotated[str, Field(pattern=EVENT_ID)]


@router.get("/channel", openapi_extra=needs(_PERMISSION))
async def ask_channel(
    request: ReadRequest, query: NewChannelQuery, refused: RefusedForm | None = None
) -> Response:
    """Show the form for a new channel."""
    draft = ChannelForm.model_construct(
        which="chosen",
        event_types=",".join(ALERTS),
        details="on",
        watches="chosen" if query.watch_id else "all",
        watch_ids=query.watch_id,
        organization_id=query.organization_id,
    )
    return await _form(request, draft, refused)


@command_route(router, "/channel", CreateEndpoint, _PERMISSION)
async def add_channel(request: ReadRequest, form: ChannelForm) -> Response:
    """Set up a channel, and send it a test."""
    key = pages.idempotency_of(request, form)
    body = form.body("format", "organization_id", "workspace_id")
    command = api.create_webhook(request, checked(body, NewWebhook, key))
    return await _try(request, form, command, key)


@router.get("/{endpoint_id}/channel", openapi_extra=needs(_PERMISSION))
async def ask_channel_change(
    request: ReadRequest, endpoint_id: str, refused: RefusedForm | None = None
) -> Response:
    """Show the form that changes a channel, with its settings except the address."""
    endpoint = await _endpoint(request, endpoint_id)
    if endpoint.format not in channel.CHANNELS:
        return pages.go(f"{PATH}/{endpoint_id}")
    draft = ChannelForm.model_construct(
        format=endpoint.format,
        region=endpoint.url,
        which="all" if endpoint.event_types == [EVERY_TYPE] else "chosen",
        event_types=",".join(endpoint.event_types),
        min_severity=endpoint.min_severity,
        watches="all" if endpoint.watch_ids is None else "chosen",
        watch_ids=",".join(endpoint.watch_ids or ()),
        details="on" if endpoint.details else None,
        description=endpoint.description,
    )
    return await _form(request, draft, refused, endpoint)


@command_route(router, "/{endpoint_id}/channel", UpdateEndpoint, _PERMISSION)
async def change_channel(request: ReadRequest, endpoint_id: str, form: ChannelForm) -> Response:
    """Replace the settings of a channel, and send it a test."""
    key = pages.idempotency_of(request, form)
    sent = checked(form.body(), WebhookChanges, key)
    return await _try(request, form, api.update_webhook(request, endpoint_id, sent), key)


@router.get("/{endpoint_id}/tested", openapi_extra=needs(_PERMISSION))
async def show_test(request: ReadRequest, endpoint_id: str, query: TestedQuery) -> Response:
    """Show the result of a test. The page repeats the request until there is a result."""
    endpoint = await _endpoint(request, endpoint_id)
    found = await pages.read_answer(
        api.list_deliveries(request, endpoint_id, api.DeliveriesQuery(limit=100)),
        PageOf[ShownDelivery],
    )
    test = next((each for each in found.data if each.event_id == query.test), None)
    return await _CHANNELS.show(
        request, "channel_tested.html", [], query, None, endpoint=endpoint, test=test
    )


@command_route(router, "/{endpoint_id}/tested", TestEndpoint, _PERMISSION)
async def try_again(request: ReadRequest, form: pages.Form) -> Response:
    """Send a test again."""
    return await _CHANNELS.send(request, form, api.send_webhook_test, partial(_follow, request))


def _follow(request: ReadRequest, made: Response) -> Response:
    """Redirect from the answer to a test to the page that shows the result."""
    (event_id,) = request.http.state.receipt.event_ids
    return pages.go(with_parameter(f"{PATH}/{_created(made).id}/tested", "test", event_id))


async def _try(
    request: ReadRequest, form: ChannelForm, command: Awaitable[Response], key: IdempotencyKey
) -> Response:
    """Execute a form's command and then a test, each once, and lead to the test's result."""

    async def commands() -> Response:
        try:
            endpoint = _created(await command)
        except Invalid as error:
            # The form has a separate field for the URL of each kind of channel.
            named = {"/url": f"/{FIELDS[form.format]}"}
            error.errors = tuple((named.get(at, at), text) for at, text in error.errors)
            raise
        own = msgspec.structs.replace(key, key=f"{key.key}-test")
        return await api.send_webhook_test(request, endpoint.id, pages.Form.sent(form, own))

    return await _CHANNELS.carry_out(request, form, commands(), partial(_follow, request))


def _created(made: Response) -> ShownEndpoint:
    return msgspec.json.decode(made.body, type=AnswerOf[ShownEndpoint]).data


async def _endpoint(request: ReadRequest, endpoint_id: str) -> ShownEndpoint:
    answer = api.show_webhook(request, endpoint_id, Present())
    return (await pages.read_answer(answer, AnswerOf[ShownEndpoint])).data


async def _form(
    request: ReadRequest,
    draft: ChannelForm,
    refused: RefusedForm | None,
    endpoint: ShownEndpoint | None = None,
) -> Response:
    """Render the form of a channel; ``endpoint`` is the one that it changes, or None."""
    if refused is not None and isinstance(refused.form, ChannelForm):
        draft = refused.form
    whose = draft.organization_id if endpoint is None else endpoint.organization_id
    names = await names_of_watches(request, whose)
    return await _CHANNELS.show(
        request,
        "channel_form.html",
        [],
        None,
        refused,
        draft=draft,
        endpoint=endpoint,
        types=sorted(channel.CHANNEL_TYPES),
        regions=({draft.region: draft.region} if draft.region else {}) | REGIONS,
        watch_names={each: each for each in draft.watched} | dict(names),
        domains=request.services.of(channel.ChannelRules).mail_domains,
        has_links=request.services.public_url is not None,
    )


_CHANNELS = Managed(
    PATH, "endpoint_id", {}, partial(ask_channel, query=NewChannelQuery()), ask_channel_change
)
