from __future__ import annotations

from backend.config import Choice, RunConfig, Settings
from ui.runs.settings_view import differences_table, differing_settings, settings_table

FIRST = RunConfig(Settings(lr=1e-3, image_size=(256, 256)), {"device": Choice("cpu", "no GPU here")})
SECOND = RunConfig(Settings(lr=5e-4, image_size=(256, 128)), {"device": Choice("cpu", "as asked")})


def test_only_what_differs_is_told_in_force() -> None:
    assert differing_settings({"a": FIRST, "b": SECOND}) == {
        "image_size": [(256, 256), (256, 128)],
        "lr": [1e-3, 5e-4],
    }


def test_what_is_unlike_the_first_run_is_marked() -> None:
    html = differences_table({"a<b": FIRST, "b": SECOND, "c": FIRST})
    assert html.count("<tr>") == 3 and html.count("<mark>") == 2
    assert "<td><bdi>256 x 256</bdi></td><td><mark><bdi>256 x 128</bdi></mark></td>" in html
    assert "a&lt;b" in html


def test_equal_settings_are_said_to_be_equal() -> None:
    assert "No setting differs" in differences_table({"a": FIRST, "b": FIRST})


def test_the_whole_table_gives_the_reason_of_a_choice() -> None:
    assert settings_table(FIRST).count("<tr>") == 1 + len(Settings.model_fields)
    assert "no GPU here" in settings_table(FIRST)
    assert settings_table(None) == ""
