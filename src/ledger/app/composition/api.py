"""The HTTP application of one process."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import psycopg
from psycopg.rows import tuple_row

from ledger.app.composition.database import open_vault, prepare_reading
from ledger.app.composition.metrics import WriterMetrics
from ledger.app.composition.sign_in import create_rules
from ledger.app.composition.writing import Clock, create_writer, utc_now
from ledger.app.http.app import LedgerApi, create_app
from ledger.app.http.site import add_pages
from ledger.app.settings import Settings
from ledger.engine.http.services import ApiServices, Writing
from ledger.engine.log.event_log import Log
from ledger.engine.postgres.pool.door import Door
from ledger.engine.reads.positions import Versions, ViewPositions
from ledger.engine.reads.replicated import ReplicatedPositions
from ledger.engine.views.rebuilding.shadow import live_generations
from ledger.engine.writer.turns import Neighbours
from ledger.features.keys.key_uses import KeyUses
from ledger.features.traces.tables import Spans
from ledger.features.usage.tables import Documents
from ledger.features.webhooks.client.target import check_target
from projections import projections

if TYPE_CHECKING:
    from ledger.features.sign_in.access.json_web_tokens import TokenVerifier


def create_api(
    settings: Settings,
    conninfo: str,
    clock: Clock = utc_now,
    neighbours: Neighbours | None = None,
    *,
    reading: str | None = None,
    only_probes: bool = False,
) -> LedgerApi:
    """Create the API and the pages, with their own services.

    ``reading`` is the connection string of reads, by ``prepare_reading``; None: prepared here. With
    ``only_probes``, the application answers health and metrics, and takes no heartbeats of runs.
    """
    log = Log(conninfo)
    reading = reading or prepare_reading(settings, conninfo)
    writer = create_writer(
        settings, log, clock, probes=True, neighbours=neighbours, observer=WriterMetrics()
    )
    if only_probes:
        writer.stop_listening()
    writing = Writing(log, writer, KeyUses(conninfo), Documents(conninfo), Spans(conninfo))
    positions = ViewPositions(reading, _versions_of_views(reading))
    return _app(settings, reading, positions, clock, writing, only_probes=only_probes)


def create_reading_api(settings: Settings, reading: str, clock: Clock = utc_now) -> LedgerApi:
    """Create the API and the pages of a read node (contract, Several nodes).

    ``reading`` is the connection string of reads, by ``find_reading``.
    """
    positions = ReplicatedPositions(reading, clock, _versions_of_views(reading))
    return _app(settings, reading, positions, clock, None)


def _app(
    settings: Settings,
    reading: str,
    positions: ViewPositions,
    clock: Clock,
    writing: Writing | None,
    *,
    only_probes: bool = False,
) -> LedgerApi:
    services = ApiServices(
        writing,
        door=Door(reading),
        positions=positions,
        vault=open_vault(settings),
        clock=clock,
        check_target=partial(check_target, allow_private=settings.webhook_allow_private),
        data_dir=settings.data_dir,
        verifier=_create_verifier(settings, clock),
        cors_origins=settings.origins,
        root_path=settings.root_path,
        is_public_by_https=settings.is_public_by_https,
        unaudited_reads=settings.unaudited_reads,
        metrics_token=settings.metrics_token,
        public_url=settings.public_url,
        channel_rules=settings.channel_rules,
        verified_at=settings.verified_at,
        session_rules=create_rules(settings, clock),
    )
    app = create_app(services, only_probes=only_probes)
    if not only_probes:
        add_pages(app)
    if settings.mcp and settings.public_url is not None and writing and not only_probes:
        from ledger.app.http.assistants import Assistants

        provider, shown = settings.provider, settings.mcp_payloads
        issuer = provider and provider.issuer
        app.assistants = Assistants(app, settings.public_url, issuer, shows_payloads=shown)
    return app


def _create_verifier(settings: Settings, clock: Clock) -> TokenVerifier | None:
    """The verifier of the identity provider's tokens; None if no provider is configured."""
    provider = settings.provider
    if provider is None:
        return None
    from ledger.features.sign_in.access.json_web_tokens import TokenVerifier
    from ledger.features.sign_in.access.key_set import KeySet

    return TokenVerifier(KeySet(provider.jwks_url), provider.issuer, provider.audience, clock)


def _versions_of_views(reading: str) -> Versions:
    """The views that a process of this code may read.

    ``reading`` is the connection string of reads. The database is asked if it has a view of another
    version.
    """

    def find_unfit() -> frozenset[str]:
        with psycopg.connect(reading, autocommit=True, row_factory=tuple_row) as connection:
            fit = {view.name for view, _ in live_generations(connection, projections())}
        return frozenset(view.name for view in projections()) - fit

    return Versions({view.name: view.version for view in projections()}, find_unfit)
