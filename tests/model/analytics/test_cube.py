from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.model.analytics import cube as cubes
from heliograph.model.analytics import sketch, totals
from heliograph.model.analytics.cube import ALL, ERRORS, Cube, Resting, View
from heliograph.model.analytics.rollup import DIMENSIONS, Cell, Cells, Place
from heliograph.model.analytics.totals import Totals, pack, unpack

K = TypeVar("K")

names = st.sampled_from(["a", "b", "c"])
places = st.tuples(st.integers(0, 70), st.tuples(names, names, names, names))


@st.composite
def _cells(draw: st.DrawFn) -> Cell:
    failed = draw(st.integers(0, 2))
    return Cell(
        pack(Totals(created=draw(st.integers(0, 3)), failed=failed, cost_nanos=draw(st.integers(0, 99)))),
        draw(st.dictionaries(st.integers(0, 99), st.integers(1, 9), max_size=3)),
        {"Timeout": failed} if failed else {},
    )


filters = st.one_of(st.none(), st.frozensets(names, max_size=2))
views = st.builds(
    View,
    st.sampled_from([None, *DIMENSIONS, ERRORS]),
    st.tuples(filters, filters, filters, filters),
    st.booleans(),
)
steps = st.lists(
    st.one_of(
        st.dictionaries(places, _cells(), min_size=1, max_size=8),
        st.tuples(views, st.integers(0, 71), st.integers(0, 71)),
    ),
    max_size=12,
)


def _by_hand(added: list[tuple[Place, Cell]], view: View, first: int, last: int) -> dict[str, int]:
    groups: dict[str, int] = {}
    for (slot, dimensions), cell in added:
        if not first <= slot < last:
            continue
        if any(w is not None and d not in w for d, w in zip(dimensions, view.filters, strict=True)):
            continue
        if view.group_by == ERRORS:
            counts = {kind: pack(Totals(failed=count)) for kind, count in cell.errors.items()}
        else:
            group = ALL if view.group_by is None else dimensions[DIMENSIONS.index(view.group_by)]
            above = sketch.merged(sketch.dump(cell.durations)) << totals.BITS if view.durations else 0
            counts = {group: cell.sums + above}
        for group, value in counts.items():
            groups[group] = groups.get(group, 0) + value
    return {group: value for group, value in groups.items() if value}


def _nonzero(groups: dict[str, int]) -> dict[str, int]:
    return {group: value for group, value in groups.items() if value}


@given(steps)
def test_any_question_after_any_changes_equals_a_sum_by_hand(
    todo: list[Cells | tuple[View, int, int]],
) -> None:
    """Whatever was added and asked before, an answer is the plain sum over the cells of its range."""
    cube = Cube()
    added: list[tuple[Place, Cell]] = []
    for step in todo:
        if isinstance(step, dict):
            cube.add(step)
            added += step.items()
        else:
            view, first, last = step
            list(cube.prepare(view, first, last))
            assert _nonzero(cube.query(view, [(first, last)])[0]) == _by_hand(added, view, first, last)


@given(st.dictionaries(places, _cells(), max_size=20))
def test_what_is_taken_back_leaves_nothing(changes: Cells) -> None:
    """Adding the opposite of every change leaves a cube without cells."""
    cube = Cube()
    cube.add(changes)
    opposite = {
        place: Cell(-cell.sums, _opposite(cell.durations), _opposite(cell.errors))
        for place, cell in changes.items()
    }
    cube.add(opposite)
    assert cube.cells == 0
    assert _nonzero(cube.query(View(), [(0, 1000)])[0]) == {}


def _opposite(counts: dict[K, int]) -> dict[K, int]:
    return {name: -count for name, count in counts.items()}


def test_a_filled_cube_answers_as_one_that_was_added_up() -> None:
    """Cells put in at rest are the cells that were taken out."""
    cell = Cell(pack(Totals(failed=1, duration_ms=5)), {5: 1}, {"Timeout": 1})
    cube = Cube()
    cube.fill(
        [((7, ("t", "a", "m", "failed")), Resting(cell.sums, sketch.dump(cell.durations), (("Timeout", 1),)))]
    )
    (value,) = cube.query(View(durations=True), [(0, 8)])[0].values()
    assert unpack(value) == Totals(failed=1, duration_ms=5)
    assert totals.above(value) == sketch.merged(sketch.dump(cell.durations))
    assert cube.query(View(ERRORS), [(0, 8)])[0] == {"Timeout": pack(Totals(failed=1))}


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views not asked for lately are forgotten once too much is kept, and answered all the same."""
    monkeypatch.setattr(cubes, "MAX_KEPT", 2000)
    cube = Cube()
    for slot in range(0, 400, 4):
        cube.add({(slot, ("t", "a", "m", "failed")): Cell(pack(Totals(created=1)))})
    for name in DIMENSIONS:
        assert sum(unpack(value).created for value in cube.query(View(name), [(0, 400)])[0].values()) == 100
        assert cube.kept <= 2000


def _spread(places: int, first: int = 0, group: str = "a") -> Cells:
    """Make a change to each of many slots."""
    return {(first + 97 * n, (group,) * 4): Cell(pack(Totals(created=1))) for n in range(places)}


def test_views_are_forgotten_however_small_they_are() -> None:
    """However many filters are asked for, those of the last few questions are kept, and no others."""
    cube = Cube()
    cube.add(_spread(50))
    for number in range(cubes.MAX_VIEWS * 3):
        cube.query(View(None, (frozenset({f"no such {number}"}), None, None, None)), [cubes.ALL_TIME])
    assert cube.views == cubes.MAX_VIEWS
    usual = View()
    for number in range(cubes.MAX_VIEWS - 1):
        cube.query(usual, [cubes.ALL_TIME])
        cube.query(View(None, (frozenset({f"another {number}"}), None, None, None)), [cubes.ALL_TIME])
    assert usual in cube._views  # what is asked for again and again stays


def test_a_change_looks_at_what_it_touches() -> None:
    """What a change costs depends on its slots, not on how many blocks the views hold."""
    looked = 0

    class Blocks(dict[tuple[int, int], object]):
        def pop(self, *place: Any) -> object:
            nonlocal looked
            looked += 1
            return super().pop(*place)

    cube = Cube()
    cube.add(_spread(2000))
    for number in range(20):
        view = View(None, (frozenset({"a", str(number)}), None, None, None))
        cube.query(view, [(0, 97 * 2000)])
        cube._views[view] = Blocks(cube._views[view])  # type: ignore[assignment]
    cube.add(_spread(1))
    assert looked <= 20 * cubes.LEVELS


def test_an_answer_is_made_in_pieces() -> None:
    """Between two pauses no more groups are merged, and no more slots added up, than a bound."""
    cube = Cube()
    for group in range(300):
        cube.add(_spread(40, group, f"group {group}"))
    pieces = list(cube.gather(View("agent"), [(0, 97 * 40)] * 30))
    assert len(pieces) >= 30 * 300 // cubes.STEP_GROUPS
    assert cube.query(View("agent"), [(0, 97 * 40)])[0]["group 7"] == pack(Totals(created=40))


def test_empty_spans_take_time_too() -> None:
    """Thousands of spans in which nothing happened are gone through in pieces."""
    spans = [(hour * 4, hour * 4 + 4) for hour in range(5000)]
    assert len(list(Cube().gather(View("agent"), spans))) >= 5000 * cubes.BLOCK_GROUPS // cubes.STEP_GROUPS


class Counting(dict[str, int]):
    """Sums that count how often they are asked."""

    asked = 0

    def __contains__(self, name: object) -> bool:
        Counting.asked += 1
        return super().__contains__(name)

    def __getitem__(self, name: str) -> int:
        Counting.asked += 1
        return super().__getitem__(name)


def test_groups_are_not_looked_for_in_every_span() -> None:
    """Of two thousand groups, each in one of two thousand spans, the greatest take one look at each."""
    Counting.asked = 0
    sums = [Counting({f"m{number}": pack(Totals(finished=number))}) for number in range(2000)]
    cut = cubes.greatest(sums, 200)
    assert sum(cubes.OTHER in span for span in cut) == 1801
    assert Counting.asked <= 3 * 2000


@given(
    st.lists(st.dictionaries(st.text(max_size=3), st.integers(1, 99), max_size=9), max_size=4),
    st.integers(1, 6),
)
def test_the_greatest_groups_and_the_rest(counts: list[dict[str, int]], most: int) -> None:
    """However many groups there are, so many are shown, the greatest by name, and nothing is lost."""
    sums = [{name: pack(Totals(finished=count)) for name, count in span.items()} for span in counts]
    cut = cubes.greatest(sums, most)
    assert [sum(span.values()) for span in cut] == [sum(span.values()) for span in sums]
    shown = set().union(*cut) if cut else set()
    assert len(shown) <= most
    weights = {name: max(span.get(name, 0) for span in counts) for span in counts for name in span}
    if cubes.OTHER in shown:
        hidden = weights.keys() - shown
        assert min((weights[name] for name in shown - {cubes.OTHER}), default=99) >= max(
            weights[name] for name in hidden
        )
