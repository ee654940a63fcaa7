"""The HTTP application of one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import psycopg
from psycopg.rows import tuple_row

from ledger.app.composition.database import open_vault, prepare_reading
from ledger.app.composition.node_writer import create_node_writer
from ledger.app.composition.sign_in import create_rules
from ledger.app.composition.writing import Clock, utc_now
from ledger.app.features import gauges, projections
from ledger.app.http.app import LedgerApi, create_app
from ledger.app.http.site import add_pages
from ledger.app.settings import Settings
from ledger.engine.http.gauges import DatabaseGauges
from ledger.engine.http.machinery.parsing import Parsing
from ledger.engine.http.services import ApiServices, Submissions, Writing
from ledger.engine.postgres.pool.read_pool import ReadPool
from ledger.engine.reads.positions import Versions, ViewPositions
from ledger.engine.reads.replicated import ReplicatedPositions
from ledger.engine.views.rebuilding.shadow import live_generations
from ledger.engine.writer.hand_over import Post, RemoteWriter
from ledger.features.feed.stream import Streams
from ledger.features.feed.tail import Tail
from ledger.features.keys.key_uses import KeyUses
from ledger.features.proof.verification.nightly import Nightly
from ledger.features.runs.read_notes import ReadNotes
from ledger.features.sign_in.access.authentication import Authenticator
from ledger.features.sign_in.access.session_store import SessionStore
from ledger.features.sign_in.access.sessions import Sessions
from ledger.features.traces.routes import Traces
from ledger.features.traces.tables import Spans
from ledger.features.usage.tables import Documents
from ledger.features.webhooks.client.target import Targets

if TYPE_CHECKING:
    from ledger.features.sign_in.access.json_web_tokens import TokenVerifier


def create_api(
    settings: Settings,
    conninfo: str,
    clock: Clock = utc_now,
    *,
    post: Post | None = None,
    reading: str | None = None,
    only_probes: bool = False,
) -> LedgerApi:
    """Create the API and the pages, with their own services.

    ``post`` leads to the node's writer; None for a writer in this process. ``reading`` is the
    connection string of reads, by ``prepare_reading``; None to prepare it here.
    With ``only_probes``, the application answers health and metrics, and takes no heartbeats of
    runs.
    """
    reading = reading or prepare_reading(settings, conninfo)
    writer = (
        RemoteWriter(post) if post is not None else create_node_writer(settings, conninfo, clock)
    )
    if only_probes:
        writer.stop_listening()
    positions = ViewPositions(reading, _versions_of_views(reading))
    writing = Writing(writer, Submissions(writer, positions))
    recording = _Recording(
        KeyUses(conninfo),
        ReadNotes(writer, clock),
        Documents(conninfo),
        Traces(Spans(conninfo), Parsing("traces", is_apart=True)),
    )
    return _app(settings, reading, positions, clock, writing, recording, only_probes=only_probes)


def create_reading_api(settings: Settings, reading: str, clock: Clock = utc_now) -> LedgerApi:
    """Create the API and the pages of a read node (contract, Several nodes).

    ``reading`` is the connection string of reads, by ``find_reading``.
    """
    positions = ReplicatedPositions(reading, clock, _versions_of_views(reading))
    return _app(settings, reading, positions, clock, None, None)


def _app(
    settings: Settings,
    reading: str,
    positions: ViewPositions,
    clock: Clock,
    writing: Writing | None,
    recording: _Recording | None,
    *,
    only_probes: bool = False,
) -> LedgerApi:
    pool, vault = ReadPool(reading), open_vault(settings)
    uses = None if recording is None else recording.key_uses
    verifier, rules = _create_verifier(settings, clock), create_rules(settings, clock)
    authenticator = Authenticator(pool, clock, uses, verifier)
    submit = partial(writing.submissions.submit, for_views=False) if writing else None
    store = SessionStore(pool, clock, vault, rules.idle, submit)
    sessions = Sessions(store, clock, authenticator, uses, rules)
    services = ApiServices(
        writing,
        pool,
        positions,
        vault,
        clock,
        authenticator,
        sessions.lapsed,
        DatabaseGauges(pool.fetch, settings.data_dir, gauges()),
        parts=(
            *(recording or ()),
            sessions,
            Streams(Tail(pool.fetch, positions), pool.fetch, sessions.lapsed),
            Nightly(settings.verified_at),
            Targets(settings.webhook_allow_private),
            settings.channel_rules,
        ),
        cors_origins=settings.origins,
        root_path=settings.root_path,
        is_public_by_https=settings.is_public_by_https,
        unaudited_reads=settings.unaudited_reads,
        metrics_token=settings.metrics_token,
        public_url=settings.public_url,
    )
    app = create_app(services, partial(_running, recording, verifier), only_probes=only_probes)
    if not only_probes:
        add_pages(app)
    if settings.mcp and settings.public_url is not None and writing and not only_probes:
        from ledger.app.http.assistants import Assistants

        provider, payloads = settings.provider, settings.mcp_payloads
        issuer = provider and provider.issuer
        app.assistants = Assistants(app, settings.public_url, issuer, shows_payloads=payloads)
    return app


class _Recording(NamedTuple):
    """The services of features that write; a read node's process has none of them."""

    key_uses: KeyUses
    read_notes: ReadNotes
    documents: Documents
    traces: Traces


@asynccontextmanager
async def _running(
    recording: _Recording | None, verifier: TokenVerifier | None, services: ApiServices
) -> AsyncIterator[None]:
    """Run the services of features, and record who reads runs, until the block ends."""
    if verifier is not None:
        verifier.keys.start()
    if recording is not None:
        recording.traces.parsing.start()
        recording.read_notes.start()
        recording.key_uses.start()
    try:
        yield
    finally:
        await services.of(Streams).stop()
        if recording is not None:
            await asyncio.to_thread(recording.read_notes.stop)
            recording.traces.parsing.stop()
            recording.key_uses.stop()
            recording.traces.spans.close()
        if verifier is not None:
            await verifier.keys.stop()


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

    ``reading`` is the connection string of reads, used if a view may have another version.
    """

    def find_unfit() -> frozenset[str]:
        with psycopg.connect(reading, autocommit=True, row_factory=tuple_row) as connection:
            fit = {view.name for view, _ in live_generations(connection, projections())}
        return frozenset(view.name for view in projections()) - fit

    return Versions({view.name: view.version for view in projections()}, find_unfit)
