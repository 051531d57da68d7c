"""Choose the build of torch for this computer, from what `nvidia-smi` says of its GPUs and driver."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import PurePosixPath

from install.torch_builds import CUDA_BUILDS, LEAST_DRIVERS, Capability, CudaBuild, has_kernels

QUERY = ("--query-gpu=driver_version,compute_cap,name", "--format=csv,noheader")
# where the driver puts nvidia-smi; before 2018 on Windows not on the PATH, in WSL sometimes not either
PLACES = (
    "nvidia-smi",
    "C:/Program Files/NVIDIA Corporation/NVSMI/nvidia-smi.exe",
    "/usr/lib/wsl/lib/nvidia-smi",
)
TIMEOUT_S = 30  # without its persistence mode the driver first starts the card
CHOOSE_AGAIN = "python start.py --torch_index auto"


@dataclass(frozen=True)
class Gpu:
    """One GPU as `nvidia-smi` lists it: the driver's major version, and the capability if it is known."""

    title: str
    driver: int
    capability: Capability | None


@dataclass(frozen=True)
class NvidiaAnswer:
    """What `nvidia-smi` says: the GPUs, or why it fails. Neither: there is none."""

    gpus: tuple[Gpu, ...] = ()
    fault: str = ""


@dataclass(frozen=True)
class TorchChoice:
    """The build to install ("cu130", "cu126", "cpu"; "pip": that of the configured index), and why."""

    build: str
    reason: str


def ask_nvidia_smi() -> NvidiaAnswer:
    """Ask the NVIDIA driver for its version and its GPUs."""
    for place in PLACES:
        try:
            done = subprocess.run(
                [place, *QUERY],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                timeout=TIMEOUT_S,
            )
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, subprocess.TimeoutExpired) as error:
            return NvidiaAnswer(fault=str(error))
        return read_answer(done.stdout, done.returncode)
    return NvidiaAnswer()


def read_answer(output: str, returncode: int) -> NvidiaAnswer:
    """Read the lines "580.82.07, 8.6, NVIDIA GeForce RTX 3060" of `nvidia-smi`, one per GPU."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if returncode != 0 or "No devices were found" in output:
        without_gpu = "No devices were found" in output
        return NvidiaAnswer(fault="" if without_gpu else " ".join(lines) or f"exit code {returncode}")
    gpus = []
    for line in lines:
        driver, capability, title = ([part.strip() for part in line.split(",", 2)] + ["", ""])[:3]
        major = driver.partition(".")[0]
        if not major.isdecimal():
            return NvidiaAnswer(fault=line)
        gpus.append(Gpu(title, int(major), _read_capability(capability)))
    return NvidiaAnswer(tuple(gpus))


def _read_capability(text: str) -> Capability | None:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def choose_torch(system: str, machine: str, answer: NvidiaAnswer) -> TorchChoice:
    """Choose the newest build that the driver serves and that has kernels for most of the GPUs."""
    if system == "Darwin":
        return TorchChoice("pip", "the build for macOS, which also computes on Apple's GPUs")
    if answer.fault:
        cure = f"repair or update the NVIDIA driver, then run {CHOOSE_AGAIN}"
        return TorchChoice("cpu", f"the CPU alone, for nvidia-smi fails ({answer.fault}); {cure}")
    if not answer.gpus:
        return TorchChoice("cpu", "the CPU alone: there is no NVIDIA GPU")
    arm = machine.lower() in ("aarch64", "arm64")
    builds = [(build, [gpu for gpu in answer.gpus if _serves(build, gpu, arm)]) for build in CUDA_BUILDS]
    build, served = max(builds, key=lambda pair: len(pair[1]))  # of equal ones the first, which is the newest
    if not served:
        return TorchChoice("cpu", "the CPU alone: " + "; ".join(_explain(gpu, arm) for gpu in answer.gpus))
    names = ", ".join(dict.fromkeys(_describe(gpu) for gpu in served))
    others = "".join(f"; not for {_explain(gpu, arm)}" for gpu in answer.gpus if gpu not in served)
    return TorchChoice(build.name, f"CUDA {build.cuda} for {names}{others}")


def _serves(build: CudaBuild, gpu: Gpu, arm: bool) -> bool:
    return gpu.driver >= LEAST_DRIVERS[build.cuda] and _has_kernels(build, gpu, arm)


def _has_kernels(build: CudaBuild, gpu: Gpu, arm: bool) -> bool:
    kernels = build.kernels_arm if arm else build.kernels
    return gpu.capability is None or has_kernels(gpu.capability, kernels)


def _describe(gpu: Gpu) -> str:
    capability = "unknown" if gpu.capability is None else "{}.{}".format(*gpu.capability)
    return f"{gpu.title} (compute capability {capability}, driver {gpu.driver})"


def _explain(gpu: Gpu, arm: bool) -> str:
    """Say why no build serves a GPU, with the cure."""
    drivers = [LEAST_DRIVERS[build.cuda] for build in CUDA_BUILDS if _has_kernels(build, gpu, arm)]
    if drivers and min(drivers) > gpu.driver:
        cure = f"update the NVIDIA driver to {min(drivers)} or later, then run {CHOOSE_AGAIN}"
        return f"{_describe(gpu)} needs a newer driver; {cure}"
    return f"{_describe(gpu)} has no kernels in this version of torch"


def torch_requirement(version: str, index: str) -> str:
    """Return the requirement for pip: the build by name if the index's address ends in it.

    Without the name pip would keep a torch of the same version that is built for something else.
    """
    name = PurePosixPath(index).name
    named = name == "cpu" or (name[:2] == "cu" and name[2:].isdecimal())
    return f"torch=={version}+{name}" if named else f"torch=={version}"
