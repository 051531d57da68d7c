from __future__ import annotations

from dataclasses import replace

from backend.memory.batch_size import DeviceMemory, recommend
from backend.memory.benchmark_store import NOTHING_MEASURED, Measured, MeasuredBatch
from backend.memory.reasons import GIB, reason
from ui.text.language import speaking
from ui.train.memory_view import measured_words, plot_memory, remarks_words

PREDICTED = {size: size * GIB // 4 for size in range(1, 65)}
CARD = DeviceMemory("card", 12 * GIB, 10 * GIB)
MEASURED = Measured((MeasuredBatch(4, GIB, training_s=0.1), MeasuredBatch(8, 3 * GIB, training_s=0.05)))


def figure_of(memory: DeviceMemory = CARD, measured: Measured = NOTHING_MEASURED, chosen: int | None = 8):
    found = recommend(PREDICTED.__getitem__, memory, measured=measured)
    return plot_memory(PREDICTED, found, memory, measured, chosen)


def traces(figure) -> dict[str, tuple[list[int], list[float]]]:
    return {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data}


def test_the_line_and_the_marks_are_the_predictions() -> None:
    shown = traces(figure_of())
    assert shown["predicted"][1][:4] == [0.25, 0.5, 0.75, 1.0]
    assert shown["chosen"] == ([8], [2.0])
    assert shown["recommended"] == ([35], [8.75])  # 10 - 1.2 GiB at a quarter each
    assert "measured" not in shown
    assert max(shown["predicted"][0]) >= 35


def test_free_total_and_reserve_are_drawn_at_their_heights() -> None:
    shapes = [(shape.type, shape.y0, shape.y1) for shape in figure_of().layout.shapes]
    assert ("line", 10.0, 10.0) in shapes and ("line", 12.0, 12.0) in shapes
    (band,) = [shape for shape in shapes if shape[0] == "rect"]
    assert (round(band[1], 2), band[2]) == (8.8, 10.0)
    assert {a.text for a in figure_of().layout.annotations} >= {"free: 10.0 GiB", "total: 12.0 GiB"}


def test_unknown_memory_draws_no_line_of_it() -> None:
    figure = figure_of(replace(CARD, total_bytes=None, free_bytes=None))
    assert not figure.layout.shapes
    assert "recommended" not in traces(figure)


def test_measured_batches_stand_on_the_line_that_they_correct() -> None:
    shown = traces(figure_of(measured=MEASURED))
    assert shown["measured"] == ([4, 8], [1.0, 3.0])
    sizes, needs = shown["predicted"]
    assert needs[sizes.index(8)] == 3.0
    assert "chosen" not in traces(figure_of(chosen=None))


def test_a_recommendation_is_told_in_the_language_of_the_page() -> None:
    found = recommend(PREDICTED.__getitem__, CARD)
    assert remarks_words(found.reasons) == found.reason
    with speaking("fa"):
        text = remarks_words(found.reasons)
    assert "حافظه" not in text and "دستهٔ" in text and "؛ " in text
    assert all(number in text for number in ("35", "8.8", "10.0", "36", "1.2"))


def test_the_name_of_a_card_keeps_its_order_between_persian_words() -> None:
    with speaking("fa"):
        text = remarks_words([reason("unknown", device="RTX 4090 (cuda:0)")])
    assert "\u2068RTX 4090 (cuda:0)\u2069" in text


def test_a_line_for_each_batch_that_was_measured() -> None:
    lines = measured_words(MEASURED.with_batch(MeasuredBatch(16, None)), PREDICTED.__getitem__).splitlines()
    assert (
        lines[1] == "- batch 8: 3.0 GiB measured, 2.0 GiB predicted; 20 images/s in training, without reading"
    )
    assert lines[2] == "- batch 16: out of memory in the test"
    assert measured_words(NOTHING_MEASURED, PREDICTED.__getitem__) == ""
