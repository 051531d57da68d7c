"""Pictures in memory that processes share, including those started by spawn, as on Windows and macOS.

The memory is freed with the last process that uses it, however that ends: on Windows it has a name but no
file, elsewhere it is a nameless file in the cache directory.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import weakref
from collections.abc import Sequence
from multiprocessing import reduction
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from backend.cache import cache_folder
from backend.errors import UserError

Picture = npt.NDArray[np.uint8]


class SharedPixels:
    """Read-only pictures, one after the other; a process that is started with them uses the same memory."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        """Copy the pictures, at least one. Raises UserError if there is no room for them."""
        self._shapes = [picture.shape for picture in pictures]
        self._num_bytes = sum(picture.nbytes for picture in pictures)
        try:
            self._map, self._handle = _create(pictures, self._num_bytes)
        except OSError as error:
            raise UserError(
                f"{self._num_bytes / 2**20:.0f} MiB of images cannot be shared with the processes that "
                f"prepare them ({error})",
                field="num_workers",
                cure=f"give --num_workers 0, or make room in {cache_folder()} and in memory",
            ) from error
        self._close_at_exit()

    def pictures(self) -> list[Picture]:
        """Return views of the memory, which lives as long as they do."""
        views, start = [], 0
        for shape in self._shapes:
            view = np.frombuffer(self._map, np.uint8, int(np.prod(shape)), start).reshape(shape)
            view.flags.writeable = False
            views.append(view)
            start += view.nbytes
        return views

    def __getstate__(self) -> dict[str, Any]:
        """Return what opens the memory in a process that is being started; `multiprocessing` passes it on."""
        handle = self._handle if isinstance(self._handle, str) else reduction.DupFd(self._handle)
        return {"_shapes": self._shapes, "_num_bytes": self._num_bytes, "_handle": handle}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map, self._handle = _open(state["_handle"], self._num_bytes)
        self._close_at_exit()

    def _close_at_exit(self) -> None:
        if isinstance(self._handle, int):
            weakref.finalize(self, os.close, self._handle)


if sys.platform == "win32":

    def _create(pictures: Sequence[Picture], num_bytes: int) -> tuple[mmap.mmap, str | int]:
        name, start = f"fiducial-{uuid4().hex}", 0
        memory = mmap.mmap(-1, num_bytes, tagname=name)
        for picture in pictures:
            memory[start : start + picture.nbytes] = picture.tobytes()
            start += picture.nbytes
        return memory, name

    def _open(name: str, num_bytes: int) -> tuple[mmap.mmap, str | int]:
        return mmap.mmap(-1, num_bytes, tagname=name), name

else:

    def _create(pictures: Sequence[Picture], num_bytes: int) -> tuple[mmap.mmap, str | int]:
        folder = cache_folder() / "shared_pixels"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            # written, then mapped: on a full disk a write is an error, a mapping would kill the process
            for picture in pictures:
                file.write(picture.tobytes())
            file.flush()
            return mmap.mmap(file.fileno(), num_bytes, access=mmap.ACCESS_READ), os.dup(file.fileno())

    def _open(handle: Any, num_bytes: int) -> tuple[mmap.mmap, str | int]:
        descriptor: int = handle.detach()
        return mmap.mmap(descriptor, num_bytes, access=mmap.ACCESS_READ), descriptor
