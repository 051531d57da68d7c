"""An image store that logs what it decodes; data workers import it from this module."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from backend.data.image_store import ImageStore, Levels


class CountingStore(ImageStore):
    """Appends a line of process and image to `log_path` for each decoding."""

    def __init__(
        self, paths: Sequence[Path], scales: Sequence[Sequence[float]], budget_bytes: int, log_path: Path
    ) -> None:
        super().__init__(paths, scales, budget_bytes)
        self.log_path = log_path

    def _decode(self, index: int) -> Levels:
        with self.log_path.open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {index}\n")
        return super()._decode(index)

    def decoded(self) -> list[tuple[int, int]]:
        """(process, image) of each decoding so far."""
        if not self.log_path.exists():
            return []
        lines = self.log_path.read_text(encoding="utf-8").splitlines()
        return [(int(process), int(index)) for process, index in map(str.split, lines)]
