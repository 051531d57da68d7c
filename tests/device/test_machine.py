from __future__ import annotations

import subprocess
import sys

import torch

from backend.device.machine import cpu_has_bfloat16


def test_the_cpu_is_known_as_torch_knows_it_and_on_linux_without_torch() -> None:
    able = torch.cpu.get_capabilities()
    assert cpu_has_bfloat16() == bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    asked = (
        "import sys; from backend.device.machine import cpu_has_bfloat16; cpu_has_bfloat16(); "
        "print('torch' in sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, encoding="utf-8", check=True
    ).stdout
    assert told.strip() == str(sys.platform != "linux")
