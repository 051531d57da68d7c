"""Speed and size of the four networks at the three image sizes; prints a Markdown table and asserts nothing.

Run from the root of the repository: python bench/models.py [--batch 4] [--repeats 5] [--device cpu]
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

# Before the script's own folder: this file is called like the package it measures.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backend.device.machine import cpu_has_bfloat16
from backend.flags import number, whole_number
from backend.resolve import choose_precision
from backend.training.build import AUTOCAST
from models import MODELS, build_model

NUM_LANDMARKS = 29
STRIDE_OF_SIZE = {128: 1, 256: 2, 512: 4}


def main() -> None:
    args = parse_args()
    device = torch.device(args.device)
    print(f"{datetime.date.today()}, {describe_machine(device)}")
    print(f"`python {shlex.join(sys.argv)}`\n")
    print(
        "| model | parameters (M) | image | stride | batch | training (images/s) "
        "| in mixed precision | ratio | inference (images/s) |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in args.models:
        for size in args.sizes:
            # At 512 a sample needs several times the memory and time: half the batch measures the same.
            batch_size = max(1, args.batch // 2) if size >= 512 else args.batch
            print(measure_row(name, size, batch_size, args.repeats, args.seconds, device), flush=True)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--batch", type=whole_number, default=4, help="images a step; half of it at 512 (default 4)"
    )
    parser.add_argument(
        "--repeats", type=whole_number, default=5, help="timed steps a cell, at most (default 5)"
    )
    parser.add_argument(
        "--seconds", type=number, default=5.0, help="stop repeating a cell after this (default 5)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument(
        "--sizes", nargs="+", type=whole_number, choices=list(STRIDE_OF_SIZE), default=list(STRIDE_OF_SIZE)
    )
    return parser.parse_args()


def describe_machine(device: torch.device) -> str:
    machine = f"{platform.machine()}, {os.cpu_count()} CPU cores, torch {torch.__version__}"
    if device.type == "cuda":
        machine += f", {torch.cuda.get_device_name(device)}"
    return machine


def measure_row(
    name: str, size: int, batch_size: int, repeats: int, seconds: float, device: torch.device
) -> str:
    stride = STRIDE_OF_SIZE[size]
    network = build_model(name, NUM_LANDMARKS, stride).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    images = torch.randn(batch_size, 3, size, size, device=device).to(memory_format=torch.channels_last)
    targets = torch.rand(batch_size, NUM_LANDMARKS, size // stride, size // stride, device=device)

    def train_step(precision: torch.dtype) -> None:
        with torch.autocast(device.type, dtype=precision, enabled=precision is not torch.float32):
            out = network(images)
        all_maps: list[Tensor] = out if isinstance(out, list) else [out]
        loss = torch.stack([(maps.float() - targets).square().mean() for maps in all_maps]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def infer() -> None:
        with torch.inference_mode():
            network(images)

    network.train()
    train_s = median_s(partial(train_step, torch.float32), repeats, seconds, device)
    half = choose_precision(device.type, cpu_has_bfloat16()).value
    half_s = median_s(partial(train_step, AUTOCAST[half]), repeats, seconds, device) if half else None
    network.eval()
    infer_s = median_s(infer, repeats, seconds, device)
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    return (
        f"| {name} | {millions:.2f} | {size} | {stride} | {batch_size} "
        f"| {batch_size / train_s:.1f} "
        f"| {f'{batch_size / half_s:.1f} | {train_s / half_s:.2f}' if half_s else '- | -'} "
        f"| {batch_size / infer_s:.1f} |"
    )


def median_s(step: Callable[[], None], repeats: int, seconds: float, device: torch.device) -> float:
    """Median seconds of a step, the first left out: `repeats` at most, none begun after `seconds`."""
    times_s: list[float] = []
    deadline = time.perf_counter() + seconds
    for index in range(repeats + 1):
        start = time.perf_counter()
        if index > 1 and start > deadline:
            break
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if index > 0:
            times_s.append(time.perf_counter() - start)
    return statistics.median(times_s)


if __name__ == "__main__":
    main()
