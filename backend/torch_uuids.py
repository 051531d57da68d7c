"""Print the UUIDs of the GPUs that torch sees, in its order, as JSON: `python -m backend.torch_uuids`."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout

import torch


def torch_uuids() -> list[str]:
    """Return the UUIDs without the prefix that NVML writes before them; empty if torch sees no GPU.

    Of a MIG instance it is the instance's own (CUDA Driver API, `cuDeviceGetUuid_v2`).
    """
    if not torch.cuda.is_available():
        return []
    return [str(torch.cuda.get_device_properties(n).uuid) for n in range(torch.cuda.device_count())]


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):  # what a library may print is no part of the answer
        uuids = torch_uuids()
    print(json.dumps(uuids))
