"""What may be wrong with a computer: pure checks of facts about it, each fault with its cure. No torch.

`NAMES`, `FAULTS` and `CURES` hold the words of the command line; the page has its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from backend.device import unusable
from backend.device.gpu import Driver, GpuReading
from backend.device.host import HostMemory
from backend.device.machine import Machine
from backend.device.unusable import TorchBuild, UnusableGpu

GIB = 2**30
MIN_MEMORY_BYTES = GIB  # torch with its libraries takes half of it
MIN_SHARED_BYTES = GIB // 4  # some batches of large images; Docker gives a quarter of it
MIN_DISK_BYTES = 2 * GIB  # the two checkpoints of a run with the largest network, and its previews

NAMES = {
    "version": "Fiducial",
    "python": "Python",
    "packages": "Packages",
    "torch": "torch",
    "cuda": "CUDA of torch",
    "driver": "NVIDIA driver",
    "card": "Graphics card",
    "kernels": "Kernels of torch",
    "gpu_memory": "GPU memory, free / total",
    "memory": "Memory, free / total",
    "shared_memory": "Shared memory",
    "runs": "Folder of runs, free",
    "data": "Folder of data, free",
    "cache": "Cache folder, free",
    "temporary": "Temporary files, free",
    "browser": "Browser",
    "fonts": "Persian typeface",
}
FAULTS = {
    **unusable.ENGLISH,
    "packages": "not as requirements.txt has them (installed, expected): {list}",
    "torch_missing": "torch is not installed",
    "torch_broken": "torch cannot be loaded ({said})",
    "little_memory": "less than {least} GiB is free",
    "little_shared": "less than {least} GiB: the processes that prepare images hand them over in it",
    "little_disk": "less than {least} GiB is free",
    "not_writable": "nothing can be written there ({said})",
    "old_browser": "the page needs version {least} or later",
    "font_missing": "missing or damaged: {files}",
}
CURES = {
    **unusable.CURES,
    "install_packages": "install them: {command}",
    "reinstall_torch": "install it again: {command}",
    "install_runtime": "install Microsoft's Visual C++ Redistributable, {address}, and restart the computer",
    "close_programs": "close other programs, or choose a smaller batch and image",
    "more_shared": "start the container with --shm-size 4g, or train with --num_workers 0",
    "free_disk": "delete what is not needed, or choose another folder with {way}",
    "other_folder": "change the rights of the folder, or choose another one with {way}",
    "update_browser": "update the browser",
    "restore_font": "download this version of Fiducial again",
}
# what chooses each folder
WAYS = {"runs": "--runs_dir", "data": "--data_root", "cache": "FIDUCIAL_CACHE_DIR", "temporary": "TMPDIR"}
# on which line a GPU that cannot be used is shown
LINE_OF_UNUSABLE = {
    "no_cuda_build": "cuda",
    "old_driver": "driver",
    "not_started": "driver",
    "no_kernels": "kernels",
}
RUNTIME = "https://aka.ms/vs/17/release/vc_redist.x64.exe"  # as torch/__init__.py names it
# how a browser names itself, and the first version that knows the selector `:has` of page.css (MDN)
BROWSERS = (
    ("Firefox", r"Firefox/(\d+)\.(\d+)", (121, 0)),
    ("Edge", r"Edg/(\d+)\.(\d+)", (105, 0)),
    ("Opera", r"OPR/(\d+)\.(\d+)", (91, 0)),
    ("Chrome", r"Chrome/(\d+)\.(\d+)", (105, 0)),
    ("Safari", r"Version/(\d+)\.(\d+).* Safari/", (15, 4)),
)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    `name` is a key of `NAMES`; `value` is the same in every language, and empty for nothing. `fault` is a key
    of `FAULTS`, or empty if all is well, and `cure` one of `CURES`.
    """

    name: str
    value: str
    fault: str = ""
    cure: str = ""
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """The fault and its cure, in English."""
        if not self.fault:
            return ""
        return f"{FAULTS[self.fault].format(**self.values)}; {CURES[self.cure].format(**self.values)}"


@dataclass(frozen=True)
class FolderFacts:
    """A folder, which need not be there yet; `failure` is why nothing can be written in it."""

    path: Path
    free_bytes: int
    failure: str = ""


@dataclass(frozen=True)
class Facts:
    """What the checks look at.

    `torch` is None, with the `torch_failure`, if it cannot be loaded (empty: it is not installed).
    `wrong_packages` are names with what is installed and what is expected; `user_agent` is how the page's
    browser names itself, and empty if there is no page.
    """

    version: str
    python: str
    pip: str  # the command that installs
    wrong_packages: tuple[tuple[str, str, str], ...]
    num_packages: int
    torch: tuple[TorchBuild, Machine] | None
    torch_failure: str
    is_windows: bool
    driver: Driver
    gpus: tuple[GpuReading, ...]
    memory: HostMemory
    shared_bytes: int | None  # in all; None: not needed here
    folders: Mapping[str, FolderFacts]
    system_browser: str
    user_agent: str
    missing_fonts: tuple[str, ...]


def diagnose(facts: Facts) -> list[Check]:
    """Return all checks, in the order of `NAMES`."""
    return [result for check in _CHECKS for result in check(facts)]


def _check_version(facts: Facts) -> Iterator[Check]:
    yield Check("version", facts.version)


def _check_python(facts: Facts) -> Iterator[Check]:
    yield Check("python", facts.python)


def _check_packages(facts: Facts) -> Iterator[Check]:
    if not facts.wrong_packages:
        yield Check("packages", str(facts.num_packages))
        return
    wrong = ", ".join(f"{name} ({found or '-'}, {wanted})" for name, found, wanted in facts.wrong_packages)
    command = f"{facts.pip} -r requirements.txt"
    values = {"list": wrong, "command": command}
    yield Check("packages", str(facts.num_packages), "packages", "install_packages", values)


def _check_torch(facts: Facts) -> Iterator[Check]:
    if facts.torch is not None:
        yield Check("torch", facts.torch[0].version)
    elif not facts.torch_failure:
        values = {"command": f"{facts.pip} -r requirements.txt"}
        yield Check("torch", "", "torch_missing", "install_packages", values)
    else:
        cure = "install_runtime" if facts.is_windows else "reinstall_torch"
        command = f"{facts.pip} --force-reinstall -r requirements.txt"
        values = {"said": facts.torch_failure, "address": RUNTIME, "command": command}
        yield Check("torch", "", "torch_broken", cure, values)


def _check_cuda(facts: Facts) -> Iterator[Check]:
    value = facts.torch[0].cuda or "" if facts.torch else ""
    yield from _with_unusable("cuda", value, facts)


def _check_driver(facts: Facts) -> Iterator[Check]:
    version, cuda = facts.driver.version or "", facts.driver.cuda
    yield from _with_unusable("driver", version + (" (CUDA {}.{})".format(*cuda) if cuda else ""), facts)


def _check_cards(facts: Facts) -> Iterator[Check]:
    """Yield a line for each card; torch knows those of AMD, which the NVIDIA driver does not list."""
    for gpu in facts.gpus:
        capability = " ({}.{})".format(*gpu.capability) if gpu.capability else ""
        yield Check("card", f"cuda:{gpu.index} {gpu.title}{capability}")
    others = facts.torch[1].gpus if facts.torch and not facts.gpus else ()
    for device in others:
        yield Check("card", f"{device.name} {device.title}")
    if not facts.gpus and not others:
        yield Check("card", "")


def _check_kernels(facts: Facts) -> Iterator[Check]:
    if facts.torch and facts.torch[0].arch_list:
        yield from _with_unusable("kernels", " ".join(facts.torch[0].arch_list), facts)


def _with_unusable(name: str, value: str, facts: Facts) -> Iterator[Check]:
    """Yield a line for each GPU that cannot be used because of this; a plain one if there are none."""
    gpus = facts.torch[1].unusable if facts.torch else ()
    faulty = [gpu for gpu in gpus if LINE_OF_UNUSABLE[gpu.why] == name]
    yield from (_of_unusable(name, value, gpu) for gpu in faulty)
    if not faulty:
        yield Check(name, value)


def _of_unusable(name: str, value: str, gpu: UnusableGpu) -> Check:
    card = f"{gpu.name} {gpu.title}"
    return Check(name, f"{value}; {card}" if value else card, gpu.why, gpu.cure, gpu.values)


def _check_gpu_memory(facts: Facts) -> Iterator[Check]:
    for gpu in facts.gpus:
        if gpu.free_bytes is not None and gpu.total_bytes is not None:
            free, total = _gib(gpu.free_bytes), _gib(gpu.total_bytes)
            yield Check("gpu_memory", f"cuda:{gpu.index} {free} / {total} GiB")


def _check_memory(facts: Facts) -> Iterator[Check]:
    free_bytes = facts.memory.free_bytes
    sound = Check("memory", f"{_gib(free_bytes)} / {_gib(facts.memory.total_bytes)} GiB")
    yield _require_space(sound, free_bytes, MIN_MEMORY_BYTES, "little_memory", "close_programs")


def _check_shared_memory(facts: Facts) -> Iterator[Check]:
    if facts.shared_bytes is not None:
        sound = Check("shared_memory", f"{_gib(facts.shared_bytes)} GiB")
        yield _require_space(sound, facts.shared_bytes, MIN_SHARED_BYTES, "little_shared", "more_shared")


def _check_folders(facts: Facts) -> Iterator[Check]:
    for name, folder in facts.folders.items():
        sound = Check(name, f"{_gib(folder.free_bytes)} GiB, {folder.path}", values={"way": WAYS[name]})
        if folder.failure:
            values = {**sound.values, "said": folder.failure}
            yield replace(sound, fault="not_writable", cure="other_folder", values=values)
        else:
            yield _require_space(sound, folder.free_bytes, MIN_DISK_BYTES, "little_disk", "free_disk")


def _require_space(sound: Check, num_bytes: int, least_bytes: int, fault: str, cure: str) -> Check:
    """Return the check as it is, or with the fault if there is less."""
    if num_bytes >= least_bytes:
        return sound
    values = {**sound.values, "least": f"{least_bytes / GIB:g}"}
    return replace(sound, fault=fault, cure=cure, values=values)


def _check_browser(facts: Facts) -> Iterator[Check]:
    """Check the browser that shows the page; without a page, name the one that this computer would open."""
    if not facts.user_agent:
        yield Check("browser", facts.system_browser)
        return
    for title, pattern, first in BROWSERS:
        if match := re.search(pattern, facts.user_agent):
            version = int(match[1]), int(match[2])
            sound = Check("browser", "{} {}.{}".format(title, *version))
            if version < first:
                least = {"least": "{}.{}".format(*first)}
                sound = replace(sound, fault="old_browser", cure="update_browser", values=least)
            yield sound
            return
    yield Check("browser", facts.user_agent)


def _check_fonts(facts: Facts) -> Iterator[Check]:
    if facts.missing_fonts:
        values = {"files": ", ".join(facts.missing_fonts)}
        yield Check("fonts", "Vazirmatn", "font_missing", "restore_font", values)
    else:
        yield Check("fonts", "Vazirmatn")


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f}"


_CHECKS: tuple[Callable[[Facts], Iterator[Check]], ...] = (
    _check_version,
    _check_python,
    _check_packages,
    _check_torch,
    _check_cuda,
    _check_driver,
    _check_cards,
    _check_kernels,
    _check_gpu_memory,
    _check_memory,
    _check_shared_memory,
    _check_folders,
    _check_browser,
    _check_fonts,
)
