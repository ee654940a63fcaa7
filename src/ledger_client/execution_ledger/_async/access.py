"""Routes about events, webhooks, the audit log, keys, names, and the service itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from execution_ledger import _operations as routes
from execution_ledger import types
from execution_ledger._async.follow import AsyncFollow
from execution_ledger._async.part import AsyncRoutes
from execution_ledger._async.transport import AsyncExport, AsyncPages
from execution_ledger.cursors import Store


class AsyncEvents(AsyncRoutes):
    """Published events, in the order of the log."""

    def list(self, **filters: Unpack[routes.ListEvents]) -> AsyncPages[types.Event]:
        """Events by ascending position, up to now."""
        return self._pages(routes.LIST_EVENTS, given=filters)

    async def get(self, event: str, **asked: Unpack[routes.ShowEvent]) -> types.Event:
        """An event."""
        return await self._call(routes.SHOW_EVENT, event, given=asked)

    def export(self, **filters: Unpack[routes.ExportEvents]) -> AsyncExport:
        """Events as one file."""
        return self._export(routes.EXPORT_EVENTS, given=filters)

    def follow(self, store: Store, **filters: Unpack[routes.StreamEvents]) -> AsyncFollow:
        """Each event since the stored position, and then each new one, for ever.

        Without a stored position the first event is the one after ``after``, else the log's first.
        See ``Follow`` for what is stored when.
        """
        return AsyncFollow(self._transport, store, filters)

    async def types(self) -> Sequence[types.ShownType]:
        """All types of events."""
        return await self._call(routes.LIST_EVENT_TYPES)

    async def schema(self, type: str) -> dict[str, Any]:
        """The JSON Schema of a type's envelope and payload."""
        return await self._call(routes.SHOW_EVENT_TYPE, type)


class AsyncWebhooks(AsyncRoutes):
    """Endpoints that events are sent to. ``execution_ledger.verify.webhook`` checks a delivery."""

    def list(self, **filters: Unpack[routes.ListWebhooks]) -> AsyncPages[types.Endpoint]:
        """Endpoints, the newest first."""
        return self._pages(routes.LIST_WEBHOOKS, given=filters)

    async def get(self, endpoint: str, **asked: Unpack[routes.ShowWebhook]) -> types.Endpoint:
        """An endpoint, and the status of its deliveries."""
        return await self._call(routes.SHOW_WEBHOOK, endpoint, given=asked)

    async def create(self, **command: Unpack[routes.CreateWebhook]) -> types.EndpointWithSecret:
        """Set up an endpoint; its ``secret`` is shown this once."""
        return await self._call(routes.CREATE_WEBHOOK, given=command)

    async def update(
        self, endpoint: str, **command: Unpack[routes.UpdateWebhook]
    ) -> types.Endpoint:
        """Change the fields that are given."""
        return await self._call(routes.UPDATE_WEBHOOK, endpoint, given=command)

    async def delete(self, endpoint: str) -> None:
        """Remove an endpoint and the record of its deliveries."""
        await self._call(routes.DELETE_WEBHOOK, endpoint)

    async def rotate_secret(
        self, endpoint: str, **command: Unpack[routes.RotateWebhookSecret]
    ) -> types.EndpointWithSecret:
        """Give a new secret; the old one signs too for 24 hours."""
        return await self._call(routes.ROTATE_WEBHOOK_SECRET, endpoint, given=command)

    async def recover(
        self, endpoint: str, **command: Unpack[routes.RecoverWebhook]
    ) -> types.Endpoint:
        """Send again what was recorded ``since`` an instant and was not delivered."""
        return await self._call(routes.RECOVER_WEBHOOK, endpoint, given=command)

    async def test(
        self, endpoint: str, **command: Unpack[routes.SendWebhookTest]
    ) -> types.Endpoint:
        """Send one delivery of type ``webhook.test``."""
        return await self._call(routes.SEND_WEBHOOK_TEST, endpoint, given=command)

    def deliveries(
        self, endpoint: str, **filters: Unpack[routes.ListDeliveries]
    ) -> AsyncPages[types.Delivery]:
        """Deliveries, a row an event, the newest first."""
        return self._pages(routes.LIST_DELIVERIES, endpoint, given=filters)

    async def resend(
        self, endpoint: str, event: str, **command: Unpack[routes.SendDeliveryAgain]
    ) -> types.Endpoint:
        """Send an event again, delivered or not."""
        return await self._call(routes.SEND_DELIVERY_AGAIN, endpoint, event, given=command)


class AsyncAudit(AsyncRoutes):
    """The audit log: every write, every refused write, and reads of runs' data."""

    def list(self, **filters: Unpack[routes.ListAuditEntries]) -> AsyncPages[types.AuditEntry]:
        """Entries by ascending position."""
        return self._pages(routes.LIST_AUDIT_ENTRIES, given=filters)

    def export(self, **filters: Unpack[routes.ExportAuditLog]) -> AsyncExport:
        """Entries as one file."""
        return self._export(routes.EXPORT_AUDIT_LOG, given=filters)


class AsyncKeys(AsyncRoutes):
    """API keys within the credential's own permissions and tenant."""

    def list(self, **filters: Unpack[routes.ListApiKeys]) -> AsyncPages[types.Key]:
        """Keys, the newest first."""
        return self._pages(routes.LIST_API_KEYS, given=filters)

    async def get(self, key: str, **asked: Unpack[routes.ShowApiKey]) -> types.Key:
        """A key."""
        return await self._call(routes.SHOW_API_KEY, key, given=asked)

    async def create(self, **command: Unpack[routes.CreateApiKey]) -> types.KeyWithSecret:
        """Create a key; its secret ``key`` is shown this once."""
        return await self._call(routes.CREATE_API_KEY, given=command)

    async def update(self, key: str, **command: Unpack[routes.UpdateApiKey]) -> types.Key:
        """Change the name or the expiry."""
        return await self._call(routes.UPDATE_API_KEY, key, given=command)

    async def rotate(self, key: str, **command: Unpack[routes.RotateApiKey]) -> types.KeyWithSecret:
        """Give a new secret; the old one works for ``grace_seconds`` more."""
        return await self._call(routes.ROTATE_API_KEY, key, given=command)

    async def revoke(self, key: str) -> None:
        """Revoke a key for good."""
        await self._call(routes.REVOKE_API_KEY, key)


class AsyncDirectory(AsyncRoutes):
    """Names: of workspaces, projects, resources, organizations and sources."""

    def list(self, **filters: Unpack[routes.ListDirectory]) -> AsyncPages[types.Name]:
        """Workspaces, projects or resources (``type``) that lines bear now."""
        return self._pages(routes.LIST_DIRECTORY, given=filters)

    async def name(
        self, subject: str, **fact: Unpack[routes.ReportDirectoryNamed]
    ) -> types.FactItem:
        """Report the name of a workspace or a project; None takes it away."""
        return await self._report("directory.named", subject, fact)

    async def search(self, q: str) -> Sequence[types.Found]:
        """Up to 20 lines, runs, workspaces, projects, resources and open blockers."""
        return await self._call(routes.SEARCH_NAMES, given={"q": q})

    def organizations(
        self, **filters: Unpack[routes.ListOrganizations]
    ) -> AsyncPages[types.Organization]:
        """Organizations; for administrators."""
        return self._pages(routes.LIST_ORGANIZATIONS, given=filters)

    def sources(self, **filters: Unpack[routes.ListSources]) -> AsyncPages[types.Source]:
        """The sources that reported, with the time of their last fact."""
        return self._pages(routes.LIST_SOURCES, given=filters)


class AsyncService(AsyncRoutes):
    """The service itself. These routes need no token."""

    async def health(self) -> dict[str, Any]:
        """Whether the process answers."""
        return await self._call(routes.CHECK_HEALTH)

    async def readiness(self) -> dict[str, Any]:
        """Whether the service is ready, part by part. Raises Unavailable if it is not."""
        return await self._call(routes.CHECK_READINESS)

    async def metrics(self) -> str:
        """The metrics, as Prometheus reads them."""
        return await self._call(routes.SHOW_METRICS)
