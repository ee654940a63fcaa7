"""The geometry of charts: bands without gaps, bars inside their box, axes with few labels."""

import itertools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.engine.page import charts
from ledger.engine.page.charts import TimeSpan

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
ZONES = [UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("America/St_Johns"), ZoneInfo("Asia/Kathmandu")]

lengths = st.floats(0.000_001, 4_000_000)
kinds = st.sampled_from(["running", "idle", "paused", "blocked"])


@st.composite
def lives(draw: st.DrawFn, largest: int = 40) -> list[TimeSpan]:
    """Intervals, one after the other."""
    found, since = list[TimeSpan](), BEGIN
    for kind, seconds in draw(st.lists(st.tuples(kinds, lengths), min_size=1, max_size=largest)):
        until = since + timedelta(seconds=max(seconds, 0.000_001))
        found.append(TimeSpan(kind, since, until))
        since = until
    return found


@given(lives(), st.integers(1, 60))
def test_a_band_covers_the_whole_width_without_gaps(life: list[TimeSpan], most: int) -> None:
    pieces = charts.band(life, life[0].since, life[-1].until, most)
    assert pieces[0].x == 0
    assert abs(pieces[-1].x + pieces[-1].width - 100) < 1e-6
    for piece, following in itertools.pairwise(pieces):
        assert piece.until == following.since
        assert abs(piece.x + piece.width - following.x) < 1e-6
    assert sum(piece.parts for piece in pieces) == len(life)
    assert len(pieces) <= max(most, 1) * 2 + 1


@given(lives())
def test_a_short_life_is_drawn_as_it_was(life: list[TimeSpan]) -> None:
    pieces = charts.band(life, life[0].since, life[-1].until)
    assert [(p.kind, p.since, p.until) for p in pieces] == life


@given(lives())
def test_a_band_takes_its_share_of_a_longer_scale(life: list[TimeSpan]) -> None:
    length = life[-1].until - life[0].since
    pieces = charts.band(life, life[0].since - length, life[-1].until + 2 * length)
    assert abs(pieces[0].x - 25) < 1e-6
    assert abs(pieces[-1].x + pieces[-1].width - 50) < 1e-6


def test_intervals_too_short_to_be_seen_are_one_piece_of_the_longest_kind() -> None:
    second = timedelta(seconds=1)
    life = [TimeSpan("running", BEGIN, BEGIN + 3000 * second)]
    for number in range(6):
        since = life[-1].until
        kind = ("blocked", "running")[number % 2]
        life.append(TimeSpan(kind, since, since + second * (2 if kind == "blocked" else 1)))
    life.append(TimeSpan("idle", life[-1].until, life[-1].until + 3000 * second))
    found = [(piece.kind, piece.parts) for piece in charts.band(life, BEGIN, life[-1].until, 4)]
    assert found == [("running", 1), ("blocked", 6), ("idle", 1)]


@given(lives())
def test_painted_pieces_are_wide_enough_to_be_seen_and_inside_the_box(
    life: list[TimeSpan],
) -> None:
    painted = charts.drawn(charts.band(life, life[0].since, life[-1].until))
    assert len(painted) == len(life)
    for piece in painted:
        assert piece.width >= charts.LEAST
        assert piece.x >= 0
        assert piece.x + piece.width <= 100 + 1e-6
    # Short pieces are painted above long ones.
    assert [p.width for p in painted] == sorted((p.width for p in painted), reverse=True)


@given(lives(), st.sets(kinds))
def test_a_lane_shows_each_interval_once(life: list[TimeSpan], chosen: set[str]) -> None:
    some = [interval for interval in life if interval.kind in chosen]
    pieces = charts.lane(some, life[0].since, life[-1].until)
    assert sum(piece.parts for piece in pieces) == len(some)
    for piece, following in itertools.pairwise(pieces):
        assert piece.until < following.since


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2090, 1, 1)),
    st.floats(0, 2_000_000_000),
    st.sampled_from(ZONES),
)
def test_an_axis_has_a_few_labels_in_order(begin: datetime, span: float, zone: ZoneInfo) -> None:
    start = begin.replace(tzinfo=UTC).astimezone(zone)
    end = (begin.replace(tzinfo=UTC) + timedelta(seconds=span)).astimezone(zone)
    labels = charts.axis(start, end)
    assert 1 <= len(labels) <= 10
    assert all(0 <= label.x <= 100 for label in labels)
    assert [label.x for label in labels] == sorted(label.x for label in labels)


def test_days_begin_at_the_zones_midnight() -> None:
    zone = ZoneInfo("Europe/Berlin")
    # The clocks go forward on the 29th.
    start = datetime(2026, 3, 28, 15, tzinfo=zone)
    labels = charts.axis(start, datetime(2026, 3, 31, 15, tzinfo=zone))
    assert [label.at.strftime(label.format) for label in labels] == [
        "03-29 00:00", "03-29 12:00", "03-30 00:00", "03-30 12:00", "03-31 00:00", "03-31 12:00",
    ]  # fmt: skip
    gaps = [b.x - a.x for a, b in itertools.pairwise(labels)]
    assert gaps[0] < gaps[1]


durations = st.lists(st.none() | st.floats(0, 100_000_000), max_size=100)


@given(durations)
def test_bars_stand_on_the_ground_inside_the_box_side_by_side(found: list[float | None]) -> None:
    grid = charts.levels((length or 0 for length in found), 180)
    drawn = charts.bars(found, grid, 180)
    assert len(drawn) == len(found)
    for bar in drawn:
        assert bar.height >= 3
        assert bar.y >= -1e-6
        assert abs(bar.y + bar.height - 180) < 1e-6
        assert 0 <= bar.x <= bar.x + bar.width <= 100
    for bar, following in itertools.pairwise(drawn):
        assert bar.x + bar.width < following.x
    chosen = charts.labelled(drawn)
    assert len(chosen) <= 5
    assert bool(chosen) == bool(drawn)


@given(st.integers(1, 100))
def test_bars_fill_the_width_evenly_and_few_ones_stay_slim(number: int) -> None:
    drawn = charts.bars([1.0] * number, charts.levels([1.0], 180), 180)
    centres = [bar.centre for bar in drawn]
    assert centres == pytest.approx([100 * (n + 0.5) / number for n in range(number)])
    assert {round(bar.width, 6) for bar in drawn} == {round(min(80 / number, 8), 6)}


@given(durations)
def test_the_grid_holds_all_durations_and_longer_ones_are_higher(
    found: list[float | None],
) -> None:
    grid = charts.levels((length or 0 for length in found), 180)
    assert len(grid) >= 2
    assert (grid[0].y, grid[-1].y) == (180, 0)
    sorted_lengths = sorted(length for length in found if length)
    heights = [bar.height for bar in charts.bars(sorted_lengths, grid, 180)]
    assert heights == sorted(heights)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=50, unique=True))
def test_strokes_stand_at_their_share_of_the_time(seconds: list[int]) -> None:
    instants = [BEGIN + timedelta(seconds=number) for number in sorted(seconds)]
    path = charts.strokes(instants, BEGIN, BEGIN + timedelta(seconds=10**9))
    xs = [float(part.split()[0]) for part in path.split("M")[1:]]
    expected = [number / 10**6 for number in sorted(seconds)]
    assert all(abs(at - true) <= 0.051 for at, true in zip(xs, expected, strict=True))
