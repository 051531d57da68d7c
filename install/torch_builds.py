"""The CUDA builds of torch: which NVIDIA GPUs each has kernels for, and the driver that it needs. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

# Where PyTorch keeps the builds of a release apart: INDEX/cu130, INDEX/cpu
# (pytorch.org/get-started/previous-versions)
INDEX = "https://download.pytorch.org/whl"
# The least driver of a major version of CUDA, on Linux and Windows (NVIDIA's CUDA Compatibility guide, "Minor
# Version Compatibility", docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html)
LEAST_DRIVERS = {11: 450, 12: 525, 13: 580}
# Processors with the GPU within (Jetson), which run only binaries built for them (`DEVICE_REQUIREMENT` in
# torch/cuda/__init__.py)
INTEGRATED = frozenset({(5, 3), (6, 2), (7, 2), (8, 7), (10, 1)})

Capability = tuple[int, int]


@dataclass(frozen=True)
class CudaBuild:
    """One build: its name in PyTorch's index, its CUDA's major version, and what it has kernels for.

    `kernels_arm` are those of the build for Linux on ARM.
    """

    name: str
    cuda: int
    kernels: tuple[str, ...]
    kernels_arm: tuple[str, ...]

    @property
    def index(self) -> str:
        """The address of the index that holds this build."""
        return f"{INDEX}/{self.name}"


# Newest first. PyTorch's "CUDA Support Matrix" (github.com/pytorch/pytorch/blob/main/RELEASE.md): torch 2.12
# to 2.14 are built with CUDA 12.6, which alone has kernels for Maxwell, Pascal and Volta, 13.0 and 13.2. Of
# the two new ones 13.0 is the stable one in 2.13. The numbers are torch 2.13's own list,
# `PYTORCH_RELEASES_CODE_CC` in torch/cuda/__init__.py.
CUDA_BUILDS = (
    CudaBuild(
        "cu130",
        13,
        ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"),
        ("sm_80", "sm_90", "sm_100", "sm_110", "sm_120"),
    ),
    CudaBuild(
        "cu126",
        12,
        ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"),
        ("sm_80", "sm_90"),
    ),
)


def has_kernels(capability: Capability, arch_list: Collection[str]) -> bool:
    """Whether a GPU can run what was compiled for some architectures.

    A binary (sm_XY) runs on the same major version and its own minor version or later; PTX (compute_XY) is
    compiled for any later GPU (CUDA Programming Guide, "The CUDA platform"). A trailing `a` is for that one
    alone, a trailing `f` for its family. Without a list (an own build, ROCm) a GPU counts as usable.
    """
    return not arch_list or any(_runs_on(arch, capability) for arch in arch_list)


def _runs_on(arch: str, capability: Capability) -> bool:
    kind, _, digits = arch.partition("_")
    number = digits.rstrip("af")
    if not number.isdecimal():
        return False
    built_for = (int(number) // 10, int(number) % 10)
    if digits.endswith("a") or capability in INTEGRATED:
        return built_for == capability
    if kind == "compute" and not digits.endswith("f"):
        return built_for <= capability
    return built_for[0] == capability[0] and built_for <= capability and built_for not in INTEGRATED
