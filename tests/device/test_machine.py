from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from backend.device import machine
from backend.device.machine import cpu_has_bfloat16, cpu_instructions


def test_the_cpu_is_known_as_torch_knows_it_and_on_linux_without_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    able = torch.cpu.get_capabilities()
    assert cpu_has_bfloat16() == bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    assert ("avx2" in cpu_instructions()) == bool(able.get("avx2"))
    assert ("avx512" in cpu_instructions()) == torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    code = (
        "import sys; from backend.device.machine import cpu_has_bfloat16; cpu_has_bfloat16(); "
        "print('torch' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    ).stdout
    assert answer.strip() == str(sys.platform != "linux")


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (None, {"sse41", "avx2", "avx512", "bfloat16"}),
        ("DEFAULT", {"sse41", "avx2", "avx512", "bfloat16"}),
        ("AVX512_CORE_BF16", {"sse41", "avx2", "avx512", "bfloat16"}),
        ("AVX512_CORE", {"sse41", "avx2", "avx512"}),
        ("AVX2", {"sse41", "avx2"}),
        ("SSE41", {"sse41"}),
    ],
)
def test_instructions_that_onednn_may_not_use_are_not_there(
    monkeypatch: pytest.MonkeyPatch, limit: str | None, expected: set[str]
) -> None:
    monkeypatch.setattr(machine, "_cpu_features", lambda: lambda _flag: True)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert cpu_instructions() == expected
    assert cpu_has_bfloat16() == ("bfloat16" in expected)
