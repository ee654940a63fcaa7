"""Rotation of organizations: each waits at most one slot for each other one, none is forgotten."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from ledger.engine.postgres.pool.round_robin import RoundRobin

KEYS = st.sampled_from("ABCD")
ACTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["add", "add_first"]), KEYS),
        st.tuples(st.sampled_from(["take", "serve"]), st.just("")),
        st.tuples(st.just("remove"), KEYS),
    ),
    max_size=60,
)


@given(ACTS)
def test_tenants_share_fairly_and_the_items_of_each_keep_their_order(
    acts: list[tuple[str, str]],
) -> None:
    queue: RoundRobin[str, int] = RoundRobin()
    waiting: dict[str, deque[int]] = {}
    order: list[str] = []  # the keys that wait, the next one first
    for number, (act, key) in enumerate(acts):
        if act == "add":
            queue.add(key, number)
            queue.add(key, number)
            waiting.setdefault(key, deque()).append(number)
            if key not in order:
                order.append(key)
        elif act == "add_first":
            queue.add_first(key, number)
            waiting.setdefault(key, deque()).appendleft(number)
            order = [key, *(other for other in order if other != key)]
        elif act == "remove" and key in order:
            queue.remove(key, waiting[key].pop())
        elif act != "remove" and order:
            key = order.pop(0)
            order.append(key)
            assert next(iter(queue)) == key
            if act == "take":
                assert queue.pop_first(key) == waiting[key].popleft()
            else:
                queue.serve(key)
        queue.remove("A", -1)  # does not wait
        order = [key for key in order if waiting[key]]
        assert list(queue) == order
        assert len(queue) == len(order)
        assert queue.count == sum(map(len, waiting.values()))
        assert [list(queue[key]) for key in queue] == [list(waiting[p]) for p in order]
