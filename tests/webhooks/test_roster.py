"""The dispatcher's memory of endpoints and the order of claims, without a database."""

import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

from ledger.features.webhooks.delivery.deliveries import (
    AppliedRequest,
    Ask,
    Changed,
    ClaimedBatch,
    ViewChanges,
)
from ledger.features.webhooks.delivery.registry import IN_FLIGHT, PROBING, EndpointRegistry, Watched
from ledger.features.webhooks.delivery.verdict import Claimed
from ledger.features.webhooks.model.endpoint import WebhookCreated, WebhookDeleted, WebhookUpdated
from projections.webhooks.view import EndpointState
from tests.support.domain import after

NOW = datetime(2026, 4, 15, 13, 0, tzinfo=UTC)
CREATED = WebhookCreated(url="http://x.example/", event_types=("*",), secret=b"")
DISABLED = WebhookUpdated(url="http://x.example/", event_types=("*",), enabled=False)


def changed(
    endpoint_id: str, *past: Any, latest: int = 0, owner: str = "ORG-26-000001", **more: Any
) -> Changed:
    """A change of an endpoint, as the view shows it."""
    endpoint = after(CREATED, *past)
    endpoint.id, endpoint.organization_id = endpoint_id, owner
    state = EndpointState(endpoint, position=max(latest, 1), latest=latest, sequence=latest)
    values = {"planned": 0, "applied": 0, "failing_since": None}
    return Changed(state, **(values | more))


def registry_of(*endpoints: Changed, reached: int = 100, most: int = 1000) -> EndpointRegistry:
    """A registry with these endpoints, which first searches for their old deliveries."""
    registry = EndpointRegistry(most)
    registry.update(ViewChanges(1, reached, list(endpoints)), NOW)
    return registry


def watched(registry: EndpointRegistry, endpoint_id: str) -> Watched:
    found = registry.get(endpoint_id)
    assert found is not None
    return found


def claimed(endpoint_id: str, position: int) -> Claimed:
    return Claimed(endpoint_id, position, position, 0, 0, None, "26-000001", "run.failed", "{}")


def nothing(
    registry: EndpointRegistry, asks: list[Ask], reached: int = 100, sends: bool = True
) -> bool:
    """Give no delivery to any endpoint; return True if the registry had their state."""
    batches = {ask.endpoint_id: ClaimedBatch(reached, sends, None, []) for ask in asks}
    return registry.give(asks, batches, NOW)


def some(registry: EndpointRegistry, asks: list[Ask], count: int) -> None:
    """Give each endpoint ``count`` new deliveries, the last that there are."""
    batches = {
        ask.endpoint_id: ClaimedBatch(
            100, True, None, [claimed(ask.endpoint_id, n + 1) for n in range(min(count, ask.free))]
        )
        for ask in asks
    }
    assert registry.give(asks, batches, NOW)


def test_an_endpoint_without_messages_is_not_served_again_until_the_view_changes() -> None:
    registry = registry_of(changed("A"), changed("B", latest=7))
    asks = registry.next_asks(NOW)
    assert [(ask.endpoint_id, ask.free, ask.sends) for ask in asks] == [
        ("A", IN_FLIGHT, True),
        ("B", IN_FLIGHT, True),
    ]
    assert nothing(registry, asks)
    assert registry.next_asks(NOW + timedelta(days=1)) == []
    assert registry.next_due() is None
    registry.update(ViewChanges(9, 109, [changed("A", latest=103)]), NOW)
    assert [ask.endpoint_id for ask in registry.next_asks(NOW)] == ["A"]


def test_a_disabled_endpoint_keeps_the_messages_that_it_had_not_received() -> None:
    registry = registry_of(changed("A", latest=7))
    assert not nothing(registry, registry.next_asks(NOW), sends=False), "it has to read the view"
    assert watched(registry, "A").planned == 0
    registry.update(ViewChanges(2, 100, [changed("A", DISABLED, latest=7)]), NOW)
    (ask,) = registry.next_asks(NOW)
    assert not ask.sends
    assert nothing(registry, [ask], sends=False)
    assert registry.next_asks(NOW) == []
    registry.update(ViewChanges(3, 100, [changed("A", latest=7)]), NOW)
    assert [ask.sends for ask in registry.next_asks(NOW)] == [True]


def test_messages_beyond_the_feeds_position_wait_until_the_feed_reaches_them() -> None:
    registry = registry_of(changed("A", latest=150), reached=100)
    assert nothing(registry, registry.next_asks(NOW), reached=100)
    assert registry.next_asks(NOW) == []
    assert not registry.is_ready
    registry.update(ViewChanges(150, 149, []), NOW)
    assert nothing(registry, registry.next_asks(NOW), reached=149)
    registry.update(ViewChanges(150, 150, []), NOW)
    assert [ask.endpoint_id for ask in registry.next_asks(NOW)] == ["A"]


def test_deliveries_in_hand_reduce_the_room_for_more() -> None:
    registry = registry_of(changed("A", latest=90), most=2 * IN_FLIGHT)
    some(registry, registry.next_asks(NOW), IN_FLIGHT)
    assert registry.next_asks(NOW) == []
    registry.update(ViewChanges(2, 100, [changed("B", latest=90, owner="ORG-26-000002")]), NOW)
    (ask,) = registry.next_asks(NOW)
    assert (ask.endpoint_id, ask.free) == ("B", IN_FLIGHT // 2)
    some(registry, [ask], ask.free)
    assert registry.next_asks(NOW) == []
    for position in range(1, 5):
        registry.release(claimed("B", position), None, NOW)
    (ask,) = registry.next_asks(NOW)
    assert (ask.endpoint_id, ask.free) == ("B", 4)


def fill(registry: EndpointRegistry) -> list[Ask]:
    """Take endpoints until there is no room, and fill each; return all requests for deliveries."""
    asks: list[Ask] = []
    while registry.is_ready:
        batch = registry.next_asks(NOW)
        some(registry, batch, IN_FLIGHT)
        asks += batch
    return asks


def test_an_organization_takes_no_more_slots_than_it_leaves_free() -> None:
    def of(owner: str, count: int) -> list[Changed]:
        return [changed(f"{owner}-{n}", latest=90, owner=owner) for n in range(count)]

    registry = registry_of(*of("A", 100), most=96)
    fill(registry)
    assert registry.in_hand == 48
    registry.update(ViewChanges(2, 100, of("B", 100)), NOW)
    asks = fill(registry)
    assert {ask.endpoint_id[0] for ask in asks} == {"B"}
    assert sum(ask.free for ask in asks) == 24
    registry.update(ViewChanges(3, 100, of("C", 1)), NOW)
    assert [(ask.endpoint_id, ask.free) for ask in fill(registry)] == [("C-0", 12)]
    registry.update(ViewChanges(4, 100, [changed("A-0", WebhookDeleted(), owner="A")]), NOW)
    assert registry.in_hand == 84, "the deleted endpoint's requests are still on their way"


def test_the_only_free_slot_goes_to_an_endpoint_with_no_delivery_in_hand() -> None:
    registry = registry_of(changed("A", latest=90), most=1)
    (ask,) = fill(registry)
    assert ask.free == 1


def test_organizations_share_fairly_however_many_endpoints_they_have() -> None:
    many = [changed(f"A-{n}", latest=90, owner="A") for n in range(200)]
    registry = registry_of(*many, changed("B", latest=90, owner="B"), most=10**6)
    assert [ask.endpoint_id for ask in registry.next_asks(NOW)][:3] == ["A-0", "B", "A-1"]


def test_a_failing_endpoint_has_fewer_deliveries_in_hand() -> None:
    registry = registry_of(changed("A", latest=90, failing_since=NOW))
    (ask,) = registry.next_asks(NOW)
    assert ask.free == PROBING


def test_failures_before_an_endpoint_was_enabled_no_longer_count() -> None:
    one = changed("A", failing_since=NOW)
    one.state.enabled_at = NOW + timedelta(seconds=1)
    assert watched(registry_of(one), "A").failing_since is None
    one.state.enabled_at = NOW
    assert watched(registry_of(one), "A").failing_since == NOW


def test_a_failure_that_a_clock_dates_before_the_enabling_counts_from_the_enabling() -> None:
    one = changed("A")
    later = NOW + timedelta(seconds=1)
    assert watched(registry_of(one), "A").counted_from(NOW) == NOW
    one.state.enabled_at = later
    assert watched(registry_of(one), "A").counted_from(NOW) == later
    assert watched(registry_of(one), "A").counted_from(later + timedelta(1)) == later + timedelta(1)


def test_an_endpoint_is_served_when_its_delivery_is_due() -> None:
    registry = registry_of(changed("A", latest=3))
    some(registry, registry.next_asks(NOW), 3)
    later = NOW + timedelta(seconds=5)
    registry.release(claimed("A", 2), later, NOW)
    registry.release(claimed("A", 3), later + timedelta(seconds=1), NOW)
    assert registry.next_due() == later
    assert registry.next_asks(NOW) == []
    (ask,) = registry.next_asks(later)
    assert (list(ask.busy), ask.free) == ([1], IN_FLIGHT - 1)


def test_every_endpoint_is_served_before_any_is_served_twice() -> None:
    names = [f"WHK-{number:03d}" for number in range(100)]
    registry = registry_of(*(changed(name, latest=9_000) for name in names), most=10**6)
    first = registry.next_asks(NOW)
    some(registry, first, IN_FLIGHT)
    for ask in first:
        registry.release(claimed(ask.endpoint_id, 1), None, NOW)
    second = registry.next_asks(NOW)
    assert [ask.endpoint_id for ask in first + second][:100] == names


def test_a_recovered_delivery_is_due_as_soon_as_its_attempt_is_over() -> None:
    registry = registry_of(changed("A", latest=1))
    some(registry, registry.next_asks(NOW), 1)
    registry.apply_outcomes([AppliedRequest("A", 50, True)], NOW)
    assert watched(registry, "A").applied == 50
    assert nothing(registry, registry.next_asks(NOW))
    registry.release(claimed("A", 1), NOW + timedelta(hours=2), NOW)
    assert [ask.endpoint_id for ask in registry.next_asks(NOW)] == ["A"]


def test_a_long_wait_keeps_one_timer_however_many_deliveries_are_due_before() -> None:
    """Deliveries of an endpoint fail once each, while another delivery waits for two hours."""
    registry, far = registry_of(changed("A")), NOW + timedelta(hours=2)
    sizes = []
    for second in range(100):
        now = NOW + timedelta(seconds=second)
        (ask,) = registry.next_asks(now)
        assert registry.give(
            [ask], {"A": ClaimedBatch(100, True, far, [claimed("A", second)])}, now
        )
        registry.release(claimed("A", second), now + timedelta(seconds=1), now)
        sizes.append(len(pickle.dumps(registry)))
    assert sizes[-1] < sizes[9] + 100, "the bytes that the roster keeps"
    assert [ask.endpoint_id for ask in registry.next_asks(now + timedelta(seconds=1))] == ["A"]
    assert registry.next_due() == far
    assert [ask.endpoint_id for ask in registry.next_asks(far)] == ["A"]


def test_a_deleted_endpoint_is_forgotten_even_with_deliveries_in_hand() -> None:
    registry = registry_of(changed("A", latest=1))
    some(registry, registry.next_asks(NOW), 1)
    registry.update(ViewChanges(2, 100, [changed("A", WebhookDeleted())]), NOW)
    assert registry.get("A") is None
    registry.release(claimed("A", 1), NOW, NOW)
    assert (registry.in_hand, registry.next_asks(NOW)) == (0, [])


def test_deliveries_of_a_deleted_endpoint_take_no_room_from_its_organization() -> None:
    registry = registry_of(changed("A", latest=90), most=2 * IN_FLIGHT)
    some(registry, registry.next_asks(NOW), IN_FLIGHT)
    registry.update(
        ViewChanges(2, 100, [changed("A", WebhookDeleted()), changed("B", latest=90)]), NOW
    )
    for position in range(1, IN_FLIGHT + 1):
        registry.release(claimed("A", position), None, NOW)
    assert [(ask.endpoint_id, ask.free) for ask in registry.next_asks(NOW)] == [("B", IN_FLIGHT)]


def test_no_message_is_sent_again_when_a_view_falls_back() -> None:
    registry = registry_of(changed("A", latest=90))
    assert nothing(registry, registry.next_asks(NOW), reached=100)
    registry.update(ViewChanges(101, 101, [changed("A", latest=101)]), NOW)
    assert nothing(registry, registry.next_asks(NOW), reached=95)
    assert watched(registry, "A").planned == 100
