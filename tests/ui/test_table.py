from __future__ import annotations

from ui.table import table_html


def test_a_table_has_a_name_its_heads_and_its_lines() -> None:
    html = table_html('a "b"', ["x < y", "z"], ["<tr><td>1</td><td>2</td></tr>"])
    assert 'aria-label="a &quot;b&quot;"' in html and 'tabindex="0"' in html
    assert '<tr><th scope="col">x &lt; y</th><th scope="col">z</th></tr>' in html
    assert "<tbody><tr><td>1</td><td>2</td></tr></tbody>" in html


def test_a_table_goes_in_the_direction_of_the_page() -> None:
    assert "dir=" not in table_html("a", ["x"], [])
