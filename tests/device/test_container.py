from __future__ import annotations

from pathlib import Path

import pytest

from backend.device.container import MARKS, VARIABLE, is_container


def test_a_container_is_known_by_its_variable_or_a_file(tmp_path: Path) -> None:
    assert not is_container(tmp_path, {})
    assert not is_container(tmp_path, {VARIABLE: ""})
    assert is_container(tmp_path, {VARIABLE: "1"})


@pytest.mark.parametrize("mark", MARKS)
def test_the_files_of_docker_and_podman(mark: str, tmp_path: Path) -> None:
    (tmp_path / mark).parent.mkdir(exist_ok=True)
    (tmp_path / mark).touch()
    assert is_container(tmp_path, {})
