"""The folder `previews/` of a run: the fixed images, and what the network predicts on them at kept epochs."""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.files import Stamp, patiently, read_stamp, write_bytes_atomic

Arrays = dict[str, npt.NDArray[Any]]
PreviewKey = tuple[str, int]  # phase, and epoch in it (from 1)

PHASES = ("train", "refine")  # in the order of training; a preview's file name begins with one of them

_IMAGES = "images.npz"
_EPOCH_NAME = re.compile(rf"({'|'.join(PHASES)})-(\d+)\.npz")


@dataclass(frozen=True)
class PreviewFolder:
    """The previews of one run: `images.npz`, and one `<phase>-<epoch>.npz` per kept epoch."""

    path: Path

    def write_images(self, arrays: Mapping[str, npt.ArrayLike]) -> None:
        """Write, by name, the fixed images, their split, and what else does not change with the epochs."""
        self._write_arrays(_IMAGES, arrays)

    def read_images(self) -> Arrays | None:
        return self._read_arrays(_IMAGES)

    def write(self, phase: str, epoch: int, arrays: Mapping[str, npt.ArrayLike]) -> None:
        """Write the predictions after an epoch of a phase, by name."""
        self._write_arrays(_epoch_name((phase, epoch)), arrays)

    def read(self, key: PreviewKey) -> Arrays | None:
        """Return what `write` stored; None if the file is absent or damaged."""
        return self._read_arrays(_epoch_name(key))

    def stamp(self, key: PreviewKey) -> Stamp | None:
        """Return a value that changes if the preview is replaced, as one from within an epoch is after it."""
        return read_stamp(self.path / _epoch_name(key))

    def list_keys(self) -> list[PreviewKey]:
        """List the epochs that have a preview, in the order of training."""
        if not self.path.is_dir():
            return []
        matches = (_EPOCH_NAME.fullmatch(path.name) for path in self.path.iterdir())
        keys = [(match[1], int(match[2])) for match in matches if match]
        return sorted(keys, key=lambda key: (PHASES.index(key[0]), key[1]))

    def prune(self, max_kept: int = 24) -> None:
        """Keep at most `max_kept` (2 or more) previews of each phase: first, last, evenly between."""
        if max_kept < 2:
            raise ValueError(f"max_kept must be at least 2, not {max_kept}")
        for phase in PHASES:
            epochs = [epoch for key_phase, epoch in self.list_keys() if key_phase == phase]
            while len(epochs) > max_kept:
                epoch = _most_dispensable(epochs)
                epochs.remove(epoch)
                # A preview that another process holds open on Windows is deleted next time.
                with contextlib.suppress(PermissionError):
                    (self.path / _epoch_name((phase, epoch))).unlink(missing_ok=True)

    def _write_arrays(self, name: str, arrays: Mapping[str, npt.ArrayLike]) -> None:
        buffer = io.BytesIO()
        # Written member by member, because np.savez has no way to refuse pickles in every version of numpy.
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for key, array in arrays.items():
                with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
        self.path.mkdir(exist_ok=True)
        write_bytes_atomic(self.path / name, buffer.getvalue())

    def _read_arrays(self, name: str) -> Arrays | None:
        path = self.path / name
        try:
            content = patiently(path.read_bytes)
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                return dict(archive)
        except (FileNotFoundError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
            return None


def _epoch_name(key: PreviewKey) -> str:
    phase, epoch = key
    return f"{phase}-{epoch:04d}.npz"


def _most_dispensable(epochs: list[int]) -> int:
    """Return the epoch, not the first or last, whose removal leaves the smallest gap between its neighbors.

    So the kept epochs stay even when one is removed after every new one.
    """
    middle = range(1, len(epochs) - 1)
    return epochs[min(middle, key=lambda index: epochs[index + 1] - epochs[index - 1])]
