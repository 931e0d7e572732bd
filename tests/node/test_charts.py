import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilsum.node import charts

SVG = "{http://www.w3.org/2000/svg}"
amounts = st.floats(0, 1e12, allow_nan=False)


def words(drawing: str) -> str:
    return "".join(ET.fromstring(drawing).itertext())


def of_kind(drawing: str, tag: str) -> list[ET.Element]:
    return ET.fromstring(drawing).findall(f".//{SVG}{tag}")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1234567, "", "1,234,567"),
        (6000, "ids", "6,000 ids"),
        (0.0881, "", "0.0881"),
        (60.0, "%", "60 %"),
        (1234567.8, "rows", "1,234,568 rows"),
        (0, "s", "0 s"),
        (0.0004, "s", "400 μs"),
        (0.0214, "s", "21.4 ms"),
        (0.99961, "s", "1 s"),
        (1.84, "s", "1.84 s"),
        (3600, "s", "3,600 s"),
        (412, "B", "412 B"),
        (999, "B", "999 B"),
        (192_320, "B", "192 kB"),
        (2_500_000_000, "B", "2.5 GB"),
        (math.inf, "s", "inf s"),
    ],
)
def test_a_quantity_reads_as_a_person_would_write_it(value, unit, text):
    assert charts.quantity(value, unit) == text


def test_bars_are_to_scale_and_a_series_may_have_no_part_in_a_group():
    drawing = charts.bars("t", ["one", "two"], {"a": [1.0, 4.0], "b": [2.0, None]}, unit="s")
    assert [float(bar.get("width", "0")) for bar in of_kind(drawing, "rect")[2:]] == [95.5, 191, 382]
    assert [bar.get("class") for bar in of_kind(drawing, "rect")[2:]] == ["c0", "c1", "c0"]
    assert "one: a 1 s, b 2 s; two: a 4 s" in words(drawing)


def test_stacked_bars_lie_end_to_end():
    drawing = charts.bars("t", ["one"], {"a": [1.0], "b": [3.0]}, stacked=True)
    first, second = of_kind(drawing, "rect")[2:]
    assert float(first.get("x", "9")) == 0
    assert first.get("width") == second.get("x") == "95.50"
    assert first.get("y") == second.get("y")


@given(st.lists(st.tuples(amounts, amounts), min_size=1, max_size=6), st.booleans())
@settings(max_examples=40)
def test_no_bar_leaves_the_picture(pairs, stacked):
    series = {"a": [pair[0] for pair in pairs], "b": [pair[1] for pair in pairs]}
    drawing = charts.bars("t", [str(n) for n in range(len(pairs))], series, stacked=stacked)
    for bar in of_kind(drawing, "rect"):
        assert 0 <= float(bar.get("x", "-1")) + float(bar.get("width", "0")) <= charts.WIDTH - 70


def test_lines_run_from_the_first_to_the_last_position():
    drawing = charts.lines("t", [0, 5, 10], {"a": [0, 1, 2], "b": [2.0, 2.0, 2.0]}, x_name="round")
    (path, flat) = (
        line.get("d", "") for line in of_kind(drawing, "path") if line.get("class", "").startswith("l")
    )
    spots = [tuple(map(float, spot.split())) for spot in re.split("[ML]", path)[1:]]
    assert spots == [(60, 258), (254, 160), (448, 62)]
    assert len({spot.split()[1] for spot in re.split("[ML]", flat)[1:]}) == 1
    assert {"0", "0.5", "1.5", "round"} <= {text.text for text in of_kind(drawing, "text")}


@pytest.mark.parametrize("x", [[], [3.0]])
def test_lines_of_nothing_and_of_one_point_are_drawn(x):
    assert of_kind(charts.lines("t", x, {"a": [1.0] * len(x)}), "text")


@given(st.integers(1, 10**7), st.integers(1, 10**7), st.floats(0, 1))
@settings(max_examples=50)
def test_the_common_area_is_to_scale(left, right, part):
    both = round(part * min(left, right))
    drawing = charts.overlap("t", ("a", left), ("b", right), both)
    one, two = of_kind(drawing, "circle")[:2]
    radii = [float(circle.get("r", "0")) for circle in (one, two)]
    gap = float(two.get("cx", "0")) - float(one.get("cx", "0"))
    assert max(radii) == pytest.approx(78)
    assert (radii[0] / radii[1]) ** 2 == pytest.approx(left / right, rel=0.05) or min(radii) < 1
    scale = math.pi * 78**2 / max(left, right)
    assert charts._lens(*radii, gap) == pytest.approx(both * scale, abs=3)
    for circle, radius in zip((one, two), radii, strict=True):
        assert radius <= float(circle.get("cx", "0")) <= 360 - radius


def test_the_common_area_of_known_circles():
    assert charts._lens(1, 1, 1) == pytest.approx(2 * math.pi / 3 - math.sqrt(3) / 2)
    assert charts._lens(1, 3, 1) == pytest.approx(math.pi)
    assert charts._lens(1, 1, 2) == 0


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=80))
@settings(max_examples=50)
def test_any_text_is_shown_as_text(title, name, label):
    for drawing in (
        charts.bars(title, [label], {name: [1.0], name + "2": [2.0]}, unit=label),
        charts.lines(title, [1, 2], {name: [1.0, 2.0]}, x_name=label, unit=name),
        charts.overlap(title, (name, 5), (label, 4), 3, unit=name),
    ):
        root = ET.fromstring(drawing)
        tags = {element.tag.removeprefix(SVG) for element in root.iter()}
        assert tags <= {"svg", "title", "desc", "style", "text", "rect", "path", "circle"}
        assert not any(key.startswith("on") or key.endswith("href") for e in root.iter() for key in e.attrib)


def test_marks_that_turn_the_direction_of_text_and_control_characters_are_replaced():
    assert charts.escape("a\u202eb\x00c\ud800<&\"'>") == "a\ufffdb\ufffdc\ufffd&lt;&amp;&quot;&#x27;&gt;"


def test_the_same_arguments_give_the_same_picture_with_a_description_for_readers_without_sight():
    first, second = (charts.bars("Seconds", ["s"], {"a": [1.0]}, unit="s") for _ in range(2))
    assert first == second
    root = ET.fromstring(first)
    ids = {element.get("id") for element in root if element.tag in {f"{SVG}title", f"{SVG}desc"}}
    assert root.get("role") == "img"
    assert set(root.get("aria-labelledby", "").split()) == ids
    assert "http" not in first.replace("http://www.w3.org/2000/svg", "")
    assert "url(" not in first


def test_a_grid_shades_each_row_by_its_parts():
    drawing = charts.grid("t", ["sick", "well"], [[3, 1], [0, 0]])
    cells = of_kind(drawing, "rect")
    assert [cell.get("class") for cell in cells] == ["c0", "c1", "c1", "c0"]
    shades = [float(cell.get("fill-opacity", "0")) for cell in cells]
    assert shades == [0.455, 0.205, 0.08, 0.08]
    assert "truth sick: 3 as sick, 1 as well; truth well: 0 as sick, 0 as well" in words(drawing)
    assert charts.grid("t", [], [])
