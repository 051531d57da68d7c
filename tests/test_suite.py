"""The tests themselves do not depend on the machine."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, settings

from backend.cache import cache_folder


def test_torch_has_one_thread_here_and_in_a_process_that_is_started() -> None:
    code = "import torch; print(torch.get_num_threads())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, encoding="utf-8")
    assert [torch.get_num_threads(), int(done.stdout)] == [1, 1]


def test_no_example_of_hypothesis_fails_for_being_slow() -> None:
    assert settings().deadline is None and HealthCheck.too_slow in settings().suppress_health_check


def test_the_users_own_cache_is_left_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert tmp_path_factory.getbasetemp() in cache_folder().parents
