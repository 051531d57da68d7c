from __future__ import annotations

import math

from ui.figures.table import BY_TEXT, cell_html, opening_line, table_html


def test_a_table_has_a_name_its_heads_and_its_lines() -> None:
    html = table_html('a "b"', ["x < y", "z"], ["<tr><td>1</td><td>2</td></tr>"], sorts=False)
    assert 'aria-label="a &quot;b&quot;"' in html and 'tabindex="0"' in html
    assert '<tr><th scope="col">x &lt; y</th><th scope="col">z</th></tr>' in html
    assert "<tbody><tr><td>1</td><td>2</td></tr></tbody>" in html


def test_a_table_goes_in_the_direction_of_the_page() -> None:
    assert "dir=" not in table_html("a", ["x"], [])


def test_a_head_is_a_button_that_sorts() -> None:
    assert '<th scope="col"><button type="button">x</button></th>' in table_html("a", ["x"], [])


def test_a_number_is_sorted_by_its_value_and_one_that_is_missing_by_none() -> None:
    assert cell_html("10.2 mm", 10.2) == '<td data-sort="10.2"><bdi>10.2 mm</bdi></td>'
    assert cell_html("9.1 px", (1, 9.1)) == '<td data-sort="1.0 9.1"><bdi>9.1 px</bdi></td>'
    for missing in (None, math.nan, (1.0, math.nan)):
        assert cell_html("-", missing) == '<td data-sort=""><bdi>-</bdi></td>'
    assert cell_html("a < b") == cell_html("a < b", BY_TEXT) == "<td><bdi>a &lt; b</bdi></td>"


def test_a_line_that_opens_something_has_a_button() -> None:
    html = opening_line('a"b', [("<run>", BY_TEXT), ("2.00 mm", 2.0)])
    assert html.startswith(
        '<tr data-key="a&quot;b"><td><bdi><button type="button">&lt;run&gt;</button></bdi></td>'
    )
