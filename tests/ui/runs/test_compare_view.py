from __future__ import annotations

from typing import Any

import pytest

from backend.config import RunConfig, Settings
from backend.evaluation.paired import Difference, PairedComparison
from ui.runs.compare_view import (
    METRICS,
    caveats,
    choose_metric,
    in_p,
    paired_html,
    plot_runs,
    signed,
    values_table,
)
from ui.runs.looks import MAX_RUNS, Look
from ui.text.language import speaking


def run(*errors_px: float, mm_per_px: float | None = 0.5, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "phase": "train",
            "epoch": epoch,
            "val/mre_px": error,
            "val/mre_mm": None if mm_per_px is None else error * mm_per_px,
            "val/sdr_2mm": None if mm_per_px is None else 1 / error,
            "val/loss": error / 10,
            "train/loss": error / 20,
            **more,
        }
        for epoch, error in enumerate(errors_px, start=1)
    ]


def looks(runs: Any) -> dict[str, Look]:
    return {run_id: Look.of(number) for number, run_id in enumerate(runs)}


def curves(figure: Any) -> list[Any]:
    return [trace for trace in figure.data if trace.showlegend is not False]


def test_each_run_has_a_curve_by_name_in_its_own_color_and_dash() -> None:
    runs = {f"run {number}": run(4, 2, 3) for number in range(MAX_RUNS)}
    figure = plot_runs(choose_metric("mre", runs), runs, looks(runs), log_axis=False)
    drawn = curves(figure)
    assert [trace.name for trace in drawn] == list(runs)
    assert len({trace.line.color for trace in drawn}) == len({trace.line.dash for trace in drawn}) == MAX_RUNS
    assert list(drawn[0].y) == [2.0, 1.0, 1.5]
    best = [trace for trace in figure.data if trace.showlegend is False]
    assert [(point.x[0], point.y[0]) for point in best] == [(2, 1.0)] * MAX_RUNS
    assert len({point.marker.symbol for point in best}) == MAX_RUNS
    assert figure.layout.yaxis.title.text == "validation MRE, mm"


def test_errors_are_in_pixels_as_soon_as_one_run_knows_no_millimetres() -> None:
    runs = {"a": run(4, 2), "b": run(8, 6, mm_per_px=None)}
    metric = choose_metric("mre", runs)
    assert metric.unit == "px"
    assert [list(trace.y) for trace in curves(plot_runs(metric, runs, looks(runs), log_axis=True))] == [
        [4, 2],
        [8, 6],
    ]
    assert choose_metric("mre", {"a": run(4), "not validated yet": []}).unit == "mm"


def test_a_long_axis_is_not_ticked_at_every_epoch() -> None:
    ticks = []
    for num_epochs in (4, 40):
        runs = {"a": run(*range(50, 50 - num_epochs, -1))}
        ticks.append(
            plot_runs(choose_metric("mre", runs), runs, looks(runs), log_axis=False).layout.xaxis.dtick
        )
    assert ticks == [1, None]


def test_a_share_is_best_where_it_is_highest() -> None:
    runs = {"a": run(4, 2, 3)}
    metric = choose_metric("sdr", runs)
    assert metric.best(runs["a"], None) == (2, 50.0)
    assert "50.00 %" in values_table(metric, runs, looks(runs))


def test_the_best_epoch_is_that_of_best_pt_whatever_is_compared() -> None:
    """The best epoch may be one that training went back from and repeated, and is counted over both phases.

    An epoch that is none of the run's own has no star.
    """
    rows = [*run(4, 3, 2, phase="train"), *run(2, 1.8, phase="refine")]
    best = {"phase": "refine", "epoch": 1, "val/mre_px": 1.0, "val/mre_mm": 0.5, "val/sdr_2mm": 0.9}
    for name, point in (("mre", (4, 0.5)), ("sdr", (4, 90.0)), ("train_loss", (5, 0.09))):
        metric = choose_metric(name, {"a": rows})
        found = metric.best(rows, best)
        assert (found[0], found[1]) == (point[0], pytest.approx(point[1]))
        figure = plot_runs(metric, {"a": rows}, looks({"a": rows}), {"a": best}, log_axis=False)
        stars = [trace for trace in figure.data if trace.marker.size == 12]
        assert [(star.x[0], star.y[0]) for star in stars] == [found]
    foreign = {"phase": "train", "epoch": None, "val/mre_px": 1.0, "val/mre_mm": 0.5}
    metric, refined = choose_metric("mre", {"a": rows}), {"a": run(2, 1.8, phase="refine")}
    assert metric.best(refined["a"], foreign) == (None, 0.5)
    assert "0.50 mm" in values_table(metric, refined, looks(refined), {"a": foreign})


def test_the_refinement_is_counted_on() -> None:
    rows = [*run(4, 3), *run(2, phase="refine")]
    assert choose_metric("mre", {"a": rows}).points(rows) == [(1, 2.0), (2, 1.5), (3, 1.0)]


@pytest.mark.parametrize("name", METRICS)
def test_a_run_without_values_is_named_in_the_table(name: str) -> None:
    runs = {"<a>": [], "b": run(4, 2)}
    metric = choose_metric(name, runs)
    html = values_table(metric, runs, looks(runs))
    assert "&lt;a&gt;" in html and "no such value" in html
    assert len(curves(plot_runs(metric, runs, looks(runs), log_axis=False))) == 1


def test_what_cannot_be_compared_is_said() -> None:
    kl, mse = (RunConfig(Settings(loss=loss), {}) for loss in ("kl", "mse"))  # type: ignore[arg-type]
    seeded = RunConfig(Settings(seed=1), {})
    assert caveats("mre", {"a": kl, "b": mse}) == ""
    assert "different losses" in caveats("val_loss", {"a": kl, "b": mse})
    assert "different losses" in caveats("train_loss", {"a": kl, "b": mse})
    assert "Seed" in caveats("mre", {"a": kl, "b": seeded})
    assert caveats("train_loss", {"a": kl, "b": seeded}) == ""


def paired(difference: float, interval: tuple[float, float] | None, **how: Any) -> PairedComparison:
    p = None if interval is None else 0.02
    unequal = Difference(
        first=1.5,
        second=1.5 + difference,
        difference=difference,
        num_cases=4,
        least_cases=6,
        p=p,
        interval=interval,
    )
    equal = Difference(first=1, second=1, difference=0, num_cases=12, least_cases=7, p=1.0, interval=(0, 0))
    return PairedComparison(
        **{
            "unit": "mm",
            "num_images": 12,
            "case_kind": "patient",
            "cases_known": True,
            "overall": unequal,
            "per_landmark": {"S": unequal, "N": equal},
            "landmark_share": 0.975,
            **how,
        }
    )


@pytest.mark.parametrize(
    ("difference", "interval", "text", "verdict"),
    [
        (-0.25, (-0.4, -0.1), "b is better than a by 0.25 mm", "▼ better"),
        (0.25, (0.1, 0.4), "b is worse than a by 0.25 mm", "▲ worse"),
        (0.25, (-0.1, 0.6), "No difference between a and b can be shown", "≈ undecided"),
        (
            0.25,
            None,
            "Too little data for a verdict between a and b: 4 patients, at least 6 needed",
            "– too few",
        ),
    ],
)
def test_the_verdict_is_in_words_and_by_landmark(
    difference: float, interval: tuple[float, float] | None, text: str, verdict: str
) -> None:
    html = paired_html("a", "b", "films-test", paired(difference, interval))
    assert text in html and verdict in html
    assert "12 images" in html and "films-test" in html
    assert "sign-flip test over 4 patients" in html and "Their intervals are at 97.5 %" in html
    assert ("Of 2 landmarks, each needs at least 7 patients that show it" in html) is (interval is None)
    assert html.count("<tr>") == 3


def test_the_p_value_is_shown_and_evaluations_that_know_no_patients_are_named() -> None:
    assert ">0.020<" in paired_html("a", "b", "films-test", paired(0.25, (0.1, 0.4)))
    assert [in_p(value) for value in (0.0004, 0.001, 1.0)] == ["< 0.001", "0.001", "1.000"]
    for known in (True, False):
        html = paired_html("a", "b", "films-test", paired(0.25, (0.1, 0.4), cases_known=known))
        assert ("do not know which images belong to one patient" in html) is not known


def test_where_no_landmark_can_have_a_verdict_no_correction_is_claimed() -> None:
    few = Difference(
        first=1.5, second=1.0, difference=-0.5, num_cases=4, least_cases=7, p=None, interval=None
    )
    html = paired_html("a", "b", "films-test", paired(-0.25, (-0.4, -0.1), per_landmark={"S": few}))
    assert "Holm" not in html and "Of 1 landmark, each needs at least 7 patients" in html


def test_in_persian_an_interval_is_persian_and_a_sign_stays_before_its_number() -> None:
    with speaking("fa"):
        html = paired_html("a", "b", "films-test", paired(-0.25, (-0.4, -0.1)))
    assert " to " not in html and "تا" in html
    assert "<bdi>-0.25 mm</bdi>" in html and "<td>-" not in html


def test_a_difference_has_its_sign() -> None:
    assert [signed(value, "mm") for value in (0.123, -0.123, 0.0)] == ["+0.12 mm", "-0.12 mm", "0.00 mm"]
