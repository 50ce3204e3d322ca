"""The front of accuracy against bytes."""

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.front import Point, draw, on_front, table

SIZES = st.integers(1, 6)
POINTS = st.lists(st.tuples(st.sampled_from([5, 10]), SIZES, SIZES), min_size=1, max_size=12, unique=True)


def points_of(drawn):
    return [
        Point(f"s{n}", tasks, "4", 1000.0 * size, 10.0 * acc, None, None)
        for n, (tasks, size, acc) in enumerate(drawn)
    ]


@given(POINTS)
def test_the_front_is_what_nothing_beats(drawn) -> None:
    """More bytes on the front buy more accuracy, and everything else is matched by a point of the front."""
    points = points_of(drawn)
    for tasks in {point.tasks for point in points}:
        here = [point for point in points if point.tasks == tasks]
        front = sorted((p for p in here if on_front(p, points)), key=lambda p: p.bytes)
        assert front
        assert all(a.bytes < b.bytes and a.acc < b.acc for a, b in zip(front, front[1:], strict=False))
        for point in here:
            assert any(p.bytes <= point.bytes and p.acc >= point.acc for p in front)


def test_the_table_and_the_picture_have_every_point(tmp_path) -> None:
    points = [
        Point("dsn, masks", 5, "8", 2000.0, 71.5, 70.5, 72.5),
        Point("wsn", 5, "8", 3000.0, 71.0, None, None),
        Point("supsup", 10, "16", 1000.0, 60.0, None, None),
    ]
    lines = table(points).splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines] == ["dsn, masks", "wsn", "supsup"]
    assert ["yes" in line for line in lines] == [True, False, True]
    assert "71.50 ± 1.00" in lines[0] and "±" not in lines[1]
    draw(points, tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes()[:4] == b"\x89PNG"
