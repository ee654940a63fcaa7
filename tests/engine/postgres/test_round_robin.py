"""Turns by organization: none waits for more than one turn of each other, none is forgotten."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from ledger.engine.postgres.pool.waiting import RoundRobin

PARTIES = st.sampled_from("ABCD")
ACTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["add", "add_first"]), PARTIES),
        st.tuples(st.sampled_from(["take", "serve"]), st.just("")),
        st.tuples(st.just("remove"), PARTIES),
    ),
    max_size=60,
)


@given(ACTS)
def test_parties_take_turns_and_the_items_of_each_keep_their_order(
    acts: list[tuple[str, str]],
) -> None:
    turns: RoundRobin[str, int] = RoundRobin()
    waiting: dict[str, deque[int]] = {}
    order: list[str] = []  # the parties that wait, the next one first
    for number, (act, party) in enumerate(acts):
        if act == "add":
            turns.add(party, number)
            turns.add(party, number)
            waiting.setdefault(party, deque()).append(number)
            if party not in order:
                order.append(party)
        elif act == "add_first":
            turns.add_first(party, number)
            waiting.setdefault(party, deque()).appendleft(number)
            order = [party, *(other for other in order if other != party)]
        elif act == "remove" and party in order:
            turns.remove(party, waiting[party].pop())
        elif act != "remove" and order:
            party = order.pop(0)
            order.append(party)
            assert next(iter(turns)) == party
            if act == "take":
                assert turns.take(party) == waiting[party].popleft()
            else:
                turns.serve(party)
        turns.remove("A", -1)  # does not wait
        order = [party for party in order if waiting[party]]
        assert list(turns) == order
        assert len(turns) == len(order)
        assert turns.count == sum(map(len, waiting.values()))
        assert [list(turns[party]) for party in turns] == [list(waiting[p]) for p in order]
