from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend import __version__
from backend.config import ModelName, Settings, parse_settings
from backend.errors import UserError
from backend.flags import (
    EXIT_USER_ERROR,
    OneLineParser,
    add_setting_flags,
    count,
    given_settings,
    number,
    run_command,
    settings_to_flags,
    whole_number,
)


def parser() -> OneLineParser:
    made = OneLineParser(prog="prog")
    add_setting_flags(made)
    return made


def parsed(*arguments: str) -> dict[str, Any]:
    return given_settings(parser().parse_args(arguments))


def test_every_setting_has_a_flag_whose_help_is_its_description_and_default() -> None:
    actions = {action.dest: action for action in parser()._actions}
    for name, field in Settings.model_fields.items():
        assert f"--{name}" in actions[name].option_strings
        help_text = (actions[name].help or "").replace("%%", "%")
        assert field.description and field.description in help_text
    text = parser().format_help()
    assert "--image_size H W" in text and "(default: 256 256)" in text and "--no-mixed_precision" in text


def test_every_command_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"Fiducial {__version__}\n"


def test_a_flag_that_is_not_given_is_not_a_setting_given() -> None:
    assert parsed() == {}
    assert parsed("--lr", "1e-4", "--epochs", "3") == {"lr": "1e-4", "epochs": "3"}


def test_numbers_are_read_in_every_digit_system_and_with_every_separator() -> None:
    flags = "--lr 0,001 --epochs ۲۰ --image_size ۲۵۶ ١٢٨ --sigma ۲٫۵ --batch_size Auto --weight_decay 1e−۴"
    result = parse_settings(parsed(*flags.split()))
    assert (result.lr, result.epochs, result.image_size) == (0.001, 20, (256, 128))
    assert (result.sigma, result.batch_size, result.weight_decay) == (2.5, "auto", 1e-4)
    written = settings_to_flags(result)
    assert all(flag.isascii() for flag in written) and parse_settings(parsed(*written)) == result


def wrong_argument(kind: Callable[[str], float], typed: str) -> str:
    made = OneLineParser(prog="prog")
    made.add_argument("--flag", type=kind)
    with pytest.raises(UserError) as caught:
        made.parse_args(["--flag", typed])
    return str(caught.value)


def test_a_flag_of_a_command_is_read_as_a_setting_is_or_refused_with_the_cure() -> None:
    assert [whole_number("۲۰"), number("0,5"), count("٣")] == [20, 0.5, 3]
    assert "--flag: '2.5' is not a whole number; write 2 or 3" in wrong_argument(whole_number, "2.5")
    assert "can mean 1.000 or 1000" in wrong_argument(number, "1,000")
    assert "'nan' is not a number" in wrong_argument(number, "nan")
    assert "must be at least 1, got 0" in wrong_argument(count, "0")


def test_boolean_flags_work_both_ways() -> None:
    assert parsed("--mixed_precision") == {"mixed_precision": True}
    assert parsed("--no-mixed_precision") == {"mixed_precision": False}


@pytest.mark.parametrize(
    "arguments",
    [
        "--model hrnet --image_size 256 256 --batch_size 16 --lr 5e-4 --mixed_precision --loss adaptive_wing "
        "--warmup_epochs 5 --epochs 100",
        "--model hrnet --image_size 128 128 --batch_size 32 --lr 5e-4 --mixed_precision --loss adaptive_wing "
        "--warmup_epochs 5 --epochs 100",
        "--model hrnet --image_size 512 512 --batch_size 8 --lr 5e-4 --mixed_precision --loss adaptive_wing "
        "--warmup_epochs 5 --epochs 100",
    ],
)
def test_commands_of_the_guide_are_understood(arguments: str) -> None:
    result = parse_settings(parsed(*arguments.split()))
    assert result.mixed_precision and result.loss == "adaptive_wing" and result.epochs == 100
    assert result.image_size[0] * result.batch_size == 4096


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "model": st.sampled_from(get_args(ModelName)),
            "image_size": st.tuples(st.sampled_from([32, 96, 512]), st.sampled_from([64, 256])),
            "batch_size": st.one_of(st.just("auto"), st.integers(1, 4096)),
            "lr": st.floats(1e-9, 10),
            "warmup_epochs": st.floats(0, 1000),
            "mixed_precision": st.booleans(),
            "sigma": st.one_of(st.just("auto"), st.floats(0.01, 64)),
            "dataset_path": st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
            "annotation_type": st.sampled_from(["mean", "Senior Orthodontists", ""]),
            "seed": st.integers(0, 2**31 - 1),
            "num_workers": st.one_of(st.just("auto"), st.integers(0, 64)),
        },
    )
)
def test_settings_written_as_flags_are_read_back_the_same(values: dict[str, Any]) -> None:
    wanted = parse_settings(values)
    assert parse_settings(parsed(*settings_to_flags(wanted))) == wanted


def test_a_path_that_begins_with_a_dash_is_read_back() -> None:
    wanted = parse_settings({"dataset_path": "-films"})
    assert parse_settings(parsed(*settings_to_flags(wanted))) == wanted


def test_flags_of_a_run_leave_defaults_out_but_the_main_settings_in() -> None:
    flags = settings_to_flags(Settings(seed=7))
    assert flags[-2:] == ["--seed", "7"]
    assert {"--model", "--image_size", "--batch_size", "--lr", "--epochs", "--loss"} < set(flags)
    assert "--decoder" not in flags and "--mixed_precision" not in flags


def fail_with(error: Exception) -> Any:
    def main(arguments: Any) -> int:
        raise error

    return main


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "vgg"],
        ["--lr"],
        ["--image_size", "256"],
        ["--no_such_flag", "1"],
        ["--batch_size", "0"],
        ["--lr", "quick"],
        ["--image_size", "250", "256"],
        ["--epochs", "2.5"],
        ["--batch_size", "1,000"],
        ["stray"],
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_command(lambda given_arguments: len(parse_settings(parsed(*given_arguments)).model), arguments)
    captured = capsys.readouterr()
    assert code == EXIT_USER_ERROR == 2
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")


def test_a_users_mistake_of_several_lines_stays_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(fail_with(UserError("first\nsecond", field="lr")), []) == 2
    assert capsys.readouterr().err == "error: lr: first\n  second\n"


def test_a_bug_is_not_dressed_up_as_a_users_mistake() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(fail_with(ZeroDivisionError()), [])


def test_exit_code_of_the_command_is_passed_on() -> None:
    assert run_command(lambda arguments: len(arguments), ["a", "b", "c"]) == 3
