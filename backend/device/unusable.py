"""GPUs that the driver lists and the installed torch cannot compute on: why, and the cure. Pure, no torch.

`ENGLISH` and `CURES` hold the sentences of the command line and of what a run records; the page has its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.device.gpu import Driver, GpuReading
from install.torch_builds import CUDA_BUILDS, LEAST_DRIVERS, Capability, has_kernels

ENGLISH = {
    "no_cuda_build": "torch {torch} is built without CUDA",
    "old_driver": "the driver {driver} serves CUDA {driver_cuda} at most, "
    "and torch {torch} needs CUDA {cuda}",
    "not_started": "the driver lists it, and torch {torch} sees no GPU ({said})",
    "no_kernels": "torch {torch} has no kernels for its compute capability {capability}, only for {kernels}",
}
CURES = {
    "install": "install a torch that can: {command}",
    "update_driver": "update the NVIDIA driver to {least} or later",
    "update_or_install": "update the NVIDIA driver to {least} or later, or install a torch for it: {command}",
    "restart": "restart the computer, or start the container with --gpus all",
    "other_torch": "install another build of torch, perhaps a newer one, that has kernels for it",
    "too_old": "no torch of today computes on a card as old as this: take another one",
}


@dataclass(frozen=True)
class Card:
    """A GPU by torch's name for it ("cuda:1"), or what that would be; `capability` is None if unknown."""

    name: str
    title: str
    capability: Capability | None


def list_cards(readings: Iterable[GpuReading]) -> list[Card]:
    """Return the GPUs that the driver lists."""
    return [Card(f"cuda:{gpu.index}", gpu.title, gpu.capability) for gpu in readings]


@dataclass(frozen=True)
class TorchBuild:
    """The installed torch: `cuda` is None if it is built without; `arch_list` is that of `get_arch_list`."""

    version: str
    cuda: str | None
    arch_list: tuple[str, ...]


@dataclass(frozen=True)
class UnusableGpu:
    """A GPU that torch cannot compute on; `why` and `cure` are keys of `ENGLISH` and `CURES`.

    `name` is torch's ("cuda:1"), or what it would be.
    """

    name: str
    title: str
    why: str
    cure: str
    values: Mapping[str, str]

    @property
    def reason(self) -> str:
        """The sentence that says why, in English."""
        return f"{self.title} ({self.name}) cannot be used: {ENGLISH[self.why].format(**self.values)}"

    @property
    def remedy(self) -> str:
        """The sentence that says what to do, in English."""
        return CURES[self.cure].format(**self.values)

    @property
    def message(self) -> str:
        """One line of both."""
        return f"{self.reason}; {self.remedy}"


def unusable_from_dict(raw: Mapping[str, Any]) -> UnusableGpu:
    """Build an UnusableGpu from what `dataclasses.asdict` made of it."""
    return UnusableGpu(**raw)


def find_unusable(
    cards: Sequence[Card], driver: Driver, build: TorchBuild, torch_message: str | None
) -> tuple[UnusableGpu, ...]:
    """Find those of the GPUs that this torch cannot compute on.

    `torch_message` is torch's explanation if it sees no GPU; None if it sees them, or was not asked.
    """
    needed = int((build.cuda or "0").partition(".")[0])
    if build.cuda is None:
        return tuple(_without_cuda(card, driver, build) for card in cards)
    if driver.cuda is not None and driver.cuda[0] < needed:
        return tuple(_with_old_driver(card, driver, build, needed) for card in cards)
    if torch_message is not None:
        values = {"torch": build.version, "said": torch_message}
        return tuple(_unusable(card, "not_started", "restart", values) for card in cards)
    return tuple(_without_kernels(cards, build))


def _without_kernels(cards: Iterable[Card], build: TorchBuild) -> Iterator[UnusableGpu]:
    """Yield the cards that this torch was not compiled for, each with a wheel for it if there is one."""
    for card in cards:
        if card.capability is None or has_kernels(card.capability, build.arch_list):
            continue
        command = _install(build, card.capability, None)
        oldest = min(_parse_capability(kernel) for wheel in CUDA_BUILDS for kernel in wheel.kernels)
        values = {
            "torch": build.version,
            "capability": "{}.{}".format(*card.capability),
            "kernels": " ".join(build.arch_list),
            "command": command or "",
        }
        otherwise = "too_old" if card.capability < oldest else "other_torch"
        yield _unusable(card, "no_kernels", "install" if command else otherwise, values)


def _without_cuda(card: Card, driver: Driver, build: TorchBuild) -> UnusableGpu:
    command = _install(build, card.capability, driver.cuda)
    least = str(min(LEAST_DRIVERS[wheel.cuda] for wheel in CUDA_BUILDS))
    values = {"torch": build.version, "least": least, "command": command or ""}
    return _unusable(card, "no_cuda_build", "install" if command else "update_driver", values)


def _with_old_driver(card: Card, driver: Driver, build: TorchBuild, needed: int) -> UnusableGpu:
    command = _install(build, card.capability, driver.cuda)
    values = {
        "torch": build.version,
        "cuda": build.cuda or "",
        "driver": driver.version or "?",
        "driver_cuda": "{}.{}".format(*(driver.cuda or ("?", "?"))),
        "least": str(LEAST_DRIVERS.get(needed, LEAST_DRIVERS[max(LEAST_DRIVERS)])),
        "command": command or "",
    }
    return _unusable(card, "old_driver", "update_or_install" if command else "update_driver", values)


def _unusable(card: Card, why: str, cure: str, values: Mapping[str, str]) -> UnusableGpu:
    return UnusableGpu(card.name, card.title, why, cure, values)


def _install(
    build: TorchBuild, capability: Capability | None, driver_cuda: tuple[int, int] | None
) -> str | None:
    """Return the command that installs this version of torch for a card; None if no wheel fits.

    The card's capability and the driver's CUDA are None if unknown.
    """
    version = build.version.partition("+")[0]
    for wheel in CUDA_BUILDS:
        fits_driver = driver_cuda is None or wheel.cuda <= driver_cuda[0]
        if fits_driver and (capability is None or has_kernels(capability, wheel.kernels)):
            return f"python -m pip install --force-reinstall torch=={version} --index-url {wheel.index}"
    return None


def _parse_capability(arch: str) -> Capability:
    number = int(arch.partition("_")[2])
    return number // 10, number % 10
