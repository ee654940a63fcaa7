"""Proofs: the data to check offline that nothing in the log was changed (contract, Proof).

The answers are plain texts, bytes and documents, without the envelope of other answers: tools read
these formats (C2SP, RFC 6962) as they are.
"""

import asyncio
import base64
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
from fastapi import Path, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from ledger.engine.http.lean import LARGEST_POSITION, Router, needs, read_route
from ledger.engine.http.problems import FEED_ERRORS, refusals
from ledger.engine.http.reading import ReadRequest, digits, read_at
from ledger.engine.http.replies import Reply
from ledger.engine.postgres.timing import WAIT_SECONDS
from ledger.engine.reads.question import Answer
from ledger.engine.values.errors import Behind, Forbidden, Invalid, NotFound
from ledger.engine.values.principal import Principal
from ledger.engine.values.rendering import doc
from ledger.features.feed.published import PUBLISHED
from ledger.features.proof.sealing import shelf
from ledger.features.proof.sealing.leaf import leaf_of
from ledger.features.proof.sealing.tiles import WIDTH, root_of, tiles_of
from ledger.features.proof.sealing.tree import Span, consistency, hash_leaf, inclusion

router = Router("/v1/log", "proof")

_BREATH_SECONDS = 0.05

_TEXT = b"text/plain; charset=utf-8"
_BYTES = b"application/octet-stream"

# How far the log is sealed, the latest published checkpoint, and the key, which comes with the
# first checkpoint.
_SEALED = """
SELECT COALESCE(c.position, 0) AS position, COALESCE(c.size, 0), c.note, s.vkey
FROM (SELECT) AS log LEFT JOIN ledger.signer AS s ON true LEFT JOIN LATERAL (
    SELECT position, size, note FROM ledger.checkpoint
    WHERE size <= s.shown_size ORDER BY size DESC LIMIT 1
) AS c ON true
"""

# The same, and the keys of the earlier origins, the latest first.
_KEYS = f"""
SELECT c.*, ARRAY(SELECT vkey FROM ledger.former_origin ORDER BY number DESC)
FROM ({_SEALED}) AS c
"""

# True if the log has fewer than ``more`` events after the sealed ones. A standby may be behind.
_HAS_FEWER = """
SELECT NOT pg_is_in_recovery()
    AND ledger.events_between(%(after)s::bigint + 1, NULL, %(more)s) < %(more)s
"""

_COUNTED = 10_000
"""The most events that are counted after the sealed ones."""

# The same, the stored event if the credential's tenant has it, and the number of leaves before it.
# Leaves are counted for a sealed event only: between the latest checkpoint and an event that is not
# sealed there may be any number of leaves.
_ENTRY = f"""
SELECT c.*, e.stream, e.version, e.topic, e.state,
    t.number * {WIDTH}
        + ledger.events_between(t.first_position, %(at)s::bigint, {WIDTH}) AS leaf_index
FROM ({_SEALED}) AS c
LEFT JOIN LATERAL ledger.stored_events(ARRAY[%(at)s::bigint]) AS e ON true
LEFT JOIN LATERAL (
    SELECT number, first_position FROM ledger.tile
    WHERE first_position <= %(at)s::bigint AND c.position >= %(at)s::bigint
    ORDER BY first_position DESC LIMIT 1
) AS t ON true
"""

_NOT_SEALED = "The log is not sealed that far yet."

_IN_HISTORIES = frozenset(event.TOPIC.partition("/")[0] for event in PUBLISHED)
"""The names of the events that histories and feeds show, in every stored version."""

Size = Annotated[int, Field(ge=0, le=LARGEST_POSITION), BeforeValidator(digits)]
AnyPosition = Annotated[
    str,
    # Any other text is 404, like a position without an event.
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": LARGEST_POSITION}),
    Path(description="The event's position.", examples=[17]),
]
Position = Annotated[int, Field(ge=1, le=LARGEST_POSITION), BeforeValidator(digits)]

_ANY = refusals(401, 422, 429, 503)


def _of(media: str, description: str) -> dict[int | str, dict[str, Any]]:
    schema = {"type": "string"} | ({} if media.startswith("text") else {"format": "binary"})
    return {200: {"description": description, "content": {media: {"schema": schema}}}}


class Inclusion(msgspec.Struct):
    """A proof that a leaf is in a tree (RFC 6962, 2.1.1). Hashes are base64."""

    leaf_index: int
    leaf_hash: str
    tree_size: int
    hashes: Annotated[list[str], doc("The audit path, the leaf's sibling first.")]


class Consistency(msgspec.Struct):
    """A proof that a tree is the beginning of another tree (RFC 6962, 2.1.2)."""

    from_: int = msgspec.field(name="from")
    to: int
    hashes: Annotated[list[str], doc("The hashes of the proof, in base64.")]


class Proof(msgspec.Struct):
    """All that proves offline that an event is in the log, with its content."""

    leaf: Annotated[str, doc("The leaf's bytes, in base64.")]
    stored: Annotated[str, doc("The stored event, in base64: its SHA-256 is in the leaf.")]
    leaf_index: int
    tree_size: Annotated[int, doc("The size of the checkpoint's tree.")]
    hashes: Annotated[list[str], doc("The audit path in base64, the leaf's sibling first.")]
    checkpoint: Annotated[str, doc("The signed note.")]
    key: Annotated[str, doc("The log's verifier key: compare it with the key that you keep.")]


class ProofQuery(BaseModel):
    """The event of a proof."""

    model_config = ConfigDict(extra="forbid")

    position: Annotated[Position, Field(description="The event's position.", examples=[17])]


class InclusionQuery(BaseModel):
    """The leaf and the tree of an inclusion proof."""

    model_config = ConfigDict(extra="forbid")

    position: Annotated[Position, Field(description="The event's position.", examples=[17])]
    size: Annotated[
        Annotated[int, Field(ge=1, le=LARGEST_POSITION), BeforeValidator(digits)] | None,
        Field(description="The tree's size; by default that of the latest checkpoint."),
    ] = None


class ConsistencyQuery(BaseModel):
    """The sizes of the two trees of a consistency proof."""

    model_config = ConfigDict(extra="forbid")

    from_: Annotated[Size, Field(alias="from", description="The smaller tree's size.")]
    to: Annotated[Size, Field(description="The larger tree's size.")]


@router.get(
    "/checkpoint",
    summary="Show the latest checkpoint",
    openapi_extra=needs(None),
    response_class=Response,
    responses=_of("text/plain", "A signed note") | _ANY,
)
async def show_checkpoint(request: ReadRequest) -> Response:
    """Show the size and the root of the sealed log, signed (C2SP tlog-checkpoint).

    With `Ledger-Min-Position` the answer waits until the log is sealed up to that position.
    """
    position, _size, note, _vkey = await _read(request, _SEALED, {})
    if note is None:
        raise Behind(_NOT_SEALED)
    return Reply(note.encode(), position, media=_TEXT)


@router.get(
    "/key",
    summary="Show the log's key",
    openapi_extra=needs(None),
    response_class=Response,
    responses=_of("text/plain", "A verifier key") | _ANY,
)
async def show_key(request: ReadRequest) -> Response:
    """Show the log's name and public key, by which checkpoints are checked (C2SP signed-note).

    Each origin of the log has a line of its own, the present one first. Keep a copy of the keys: an
    attacker who changed the log could change this answer too.
    """
    position, _size, _note, vkey, former = await _read(request, _KEYS, {})
    if vkey is None:
        raise Behind(_NOT_SEALED)
    text = "".join(f"{key}\n" for key in (vkey, *former))
    return Reply(text.encode(), position, media=_TEXT)


@router.get(
    "/entries/{position}",
    summary="Show a leaf",
    openapi_extra=needs(None),
    response_class=Response,
    responses=_of("application/octet-stream", "The leaf's bytes") | FEED_ERRORS,
)
async def show_entry(request: ReadRequest, position: AnyPosition) -> Response:
    """Show the exact bytes that were hashed for an event that the credential sees."""
    if not re.fullmatch("[1-9][0-9]{0,18}", position) or int(position) > LARGEST_POSITION:
        raise NotFound("No such position.")
    entry = await sealed_entry(request, int(position))
    return Reply(entry.leaf, entry.sealed_until, media=_BYTES)


@read_route(
    router, "/proof", Proof, FEED_ERRORS, summary="Prove an event in one document", permission=None
)
async def show_proof(request: ReadRequest, query: ProofQuery) -> Response:
    """Show an event as it is stored, its leaf, the proof, the latest checkpoint and the key.

    All of it is checked offline.
    """
    entry = await sealed_entry(request, query.position)
    hashes = await _roots(request, inclusion(entry.leaf_index, entry.size))
    leaf, stored, key = base64_of(entry.leaf), base64_of(entry.stored), f"{entry.vkey}\n"
    proof = Proof(leaf, stored, entry.leaf_index, entry.size, hashes, entry.note, key)
    return Reply(msgspec.json.encode(proof), entry.sealed_until)


@read_route(
    router,
    "/proof/inclusion",
    Inclusion,
    FEED_ERRORS,
    summary="Prove that an event is in the log",
    permission=None,
)
async def prove_inclusion(request: ReadRequest, query: InclusionQuery) -> Response:
    """Prove that the leaf of an event, which the credential sees, is in the tree of a size."""
    entry = await sealed_entry(request, query.position)
    size = entry.size if query.size is None else query.size
    if entry.leaf_index >= size:
        raise Invalid.at(
            "/size", "must be larger: the tree of this size does not contain the event"
        )
    await _require_sealed(request, "/size", size, (entry.size, entry.sealed_until))
    proof = await inclusion_of(request, entry, size)
    return Reply(msgspec.json.encode(proof), entry.sealed_until)


@read_route(
    router,
    "/proof/consistency",
    Consistency,
    _ANY,
    summary="Prove that the log only grew",
    permission=None,
)
async def prove_consistency(request: ReadRequest, query: ConsistencyQuery) -> Response:
    """Prove that the tree of one size is the beginning of the tree of another size."""
    if query.from_ > query.to:
        raise Invalid.at("/to", "must not be smaller than from")
    sealed_until, sealed, _note, _vkey = await _read(request, _SEALED, {})
    await _require_sealed(request, "/to", query.to, (sealed, sealed_until))
    hashes = await _roots(request, consistency(query.from_, query.to))
    return Reply(msgspec.json.encode(Consistency(query.from_, query.to, hashes)), sealed_until)


async def _read(request: ReadRequest, statement: str, parameters: Mapping[str, Any]) -> Any:
    """The statement's row, which begins with the position up to which the log is sealed.

    Raises Behind if the log is not sealed up to the requested position in time.
    """
    time = asyncio.get_running_loop().time
    deadline = time() + WAIT_SECONDS
    while True:
        (row,) = await request.fetch(statement, parameters)
        if row[0] >= (request.min_position or 0):
            return row
        if time() >= deadline:
            raise Behind("The log is not sealed up to the requested position yet.")
        await asyncio.sleep(_BREATH_SECONDS)


class SealedEntry(NamedTuple):
    """An event in the sealed log."""

    sealed_until: int
    """The position up to which the log is sealed."""
    size: int
    note: str
    """The latest checkpoint, of this size."""
    vkey: str
    leaf_index: int
    leaf: bytes
    stored: bytes
    """The stored event, whose hash is in the leaf."""


async def sealed_entry(request: ReadRequest, position: int) -> SealedEntry:
    """The event at a position in the sealed log, with the latest checkpoint.

    Raises Forbidden if the credential may neither read nor audit, NotFound if it does not see the
    event, and Behind if the event is not sealed yet.
    """
    principal = request.principal
    if not principal.is_admin and not principal.permissions & {"read", "audit:read"}:
        raise Forbidden("The credential lacks the permission read or audit:read.")
    row = await _read(request, _ENTRY, {"at": position})
    sealed_until, size, note, vkey, stream, version, topic, state, index = row
    if stream is None or not _tells_of(principal, topic):
        raise read_at(Answer([row]), NotFound("No such position."))
    if position > sealed_until:
        raise Behind(_NOT_SEALED)
    stored = bytes(state)
    leaf = leaf_of(stream, version, topic, stored, position)
    return SealedEntry(sealed_until, size, note, vkey, index, leaf, stored)


async def seal_of(request: ReadRequest, position: int) -> SealedEntry | None:
    """Returns None if the event is not sealed yet. Raises like ``sealed_entry`` otherwise."""
    try:
        return await sealed_entry(request, position)
    except Behind:
        return None


async def inclusion_of(request: ReadRequest, entry: SealedEntry, size: int) -> Inclusion:
    hashes = await _roots(request, inclusion(entry.leaf_index, size))
    return Inclusion(entry.leaf_index, base64_of(hash_leaf(entry.leaf)), size, hashes)


def _tells_of(principal: Principal, topic: str) -> bool:
    """Return True if a credential may see a topic: only the audit log shows some topics."""
    return principal.may("audit:read") or topic.partition("/")[0] in _IN_HISTORIES


async def _roots(request: ReadRequest, spans: Iterable[Span]) -> list[str]:
    """The roots over these spans of leaves, in base64."""
    spans = list(spans)
    wanted = tiles_of(spans)
    values = {"levels": [level for level, _ in wanted], "numbers": [number for _, number in wanted]}
    rows = await request.fetch(shelf.TILES, values)
    tiles = {(level, number): bytes(hashes) for level, number, hashes in rows}
    return [base64_of(root_of(span, tiles)) for span in spans]


async def _require_sealed(
    request: ReadRequest, pointer: str, size: int, sealed: tuple[int, int]
) -> None:
    """Raise Behind for a size beyond the sealed one, Invalid if the log was never so long.

    ``sealed`` is the sealed size, and the position of its last event.
    """
    if size <= sealed[0]:
        return
    values = {"after": sealed[1], "more": min(size - sealed[0], _COUNTED)}
    ((has_fewer,),) = await request.fetch(_HAS_FEWER, values)
    if has_fewer:
        raise Invalid.at(pointer, "must be a size that the log has had under its present origin")
    raise Behind(_NOT_SEALED)


def base64_of(octets: bytes) -> str:
    return base64.b64encode(octets).decode()
