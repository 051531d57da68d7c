from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from backend.config import Choice, RunConfig, parse_settings
from backend.device.machine import cpu_has_bfloat16
from backend.memory import trace as trace_module
from backend.memory.steps import LonePhase, first_phase, refine_phase, run_validation_step
from backend.memory.trace import FollowStorages, trace_phase
from backend.training.build import build_refiner, images_per_crop_batch
from backend.training.stability import copy_to_main_memory
from models import MODELS

pytestmark = pytest.mark.slow

K = 5
NO_BFLOAT16 = "this CPU has no instructions for bfloat16"

# What a CPU's kernels keep for themselves differs from CPU to CPU: instructions decide which kernel runs,
# threads how often it keeps it. So the tests choose the number of threads, which a machine would by its
# cores, and what they allow holds on each instruction set, as oneDNN's own descriptors of its convolutions
# have it (SSE4.1, AVX2, AVX-512, AVX512-BF16, AMX). One thread keeps at most some hundred KiB that the trace
# does not count (AMX: tiles, and the input laid out for them).
KEPT_BY_A_THREAD_BYTES = 2**19
# With AVX-512 and AMX, a further thread may also keep a sum of a convolution's gradient, in float32.


def config_of(precision: str | bool = False, **settings: Any) -> RunConfig:
    choices = {"device": Choice("cpu", "test"), "mixed_precision": Choice(precision, "test")}
    return RunConfig(parse_settings(settings), choices)


def test_a_tiny_step_agrees_with_a_count_by_hand():
    followed = FollowStorages()
    with FakeTensorMode(), followed:
        layer = nn.Linear(8, 16, bias=False)  # 512 bytes
        inputs = torch.zeros(4, 8)  # 128
        assert followed.alive_bytes == 640
        start = len(followed.order)
        torch.relu(layer(inputs)).sum().backward()
        alive, heights = 640, []
        for number in followed.order[start:]:
            alive += followed.sizes[number] if number >= 0 else -followed.sizes[~number]
            heights.append(alive)
    # maps 256, relu 256 beside them, then the maps go
    assert heights[:3] == [640 + 256, 640 + 512, 640 + 256]
    # relu and the loss 4; backward: its seed 4, the relu's gradient 256, and, after relu has gone, the
    # weights' 512
    assert max(heights) == 640 + 4 + 4 + 256 + 512
    assert followed.alive_bytes == 640 + 512  # the gradient stays


def test_a_tiny_convolution_agrees_with_a_count_by_hand():
    followed = FollowStorages(copies_in_convolutions=True)
    with FakeTensorMode(), followed:
        weights = torch.zeros(8, 4, 3, 3)  # 1152 bytes
        images = torch.zeros(2, 4, 6, 6)  # 1152
        start = len(followed.order)
        maps = F.conv2d(images, weights, padding=1)  # 2 x 8 x 6 x 6 floats, then the weights laid out again
    born = [followed.sizes[number] for number in followed.order[start:] if number >= 0]
    assert born == [maps.numel() * 4, 1152]
    assert followed.alive_bytes == 1152 + 1152 + 2304  # the copy has gone
    assert followed.convolutions == [(1152, 1152, 2304)]


def test_storages_that_are_views_elsewhere_or_gone_do_not_count():
    followed = FollowStorages()
    with FakeTensorMode(), followed:
        tensor = torch.zeros(10)
        view = tensor.view(2, 5)
        del tensor
        assert followed.alive_bytes == 40
        del view
        assert followed.alive_bytes == 0
        with followed.elsewhere():
            elsewhere = torch.zeros(10)
        again = elsewhere.view(2, 5)
        assert followed.alive_bytes == 0
        assert again.add_(1).untyped_storage().nbytes() == 40


def copies(side: int, *instructions: str, num_threads: int = 1, channels: int = 16) -> int:
    with FakeTensorMode():
        images, weights = torch.zeros(2, channels, side, side), torch.zeros(channels, channels, 3, 3)
        return trace_module._copies_in_backward(images, weights, {"sse41", *instructions}, num_threads)


def test_the_copies_of_a_convolution_are_those_of_its_kernel_and_of_the_threads():
    assert copies(3, "avx2", num_threads=16) == copies(2, "avx2", "avx512", num_threads=16) == 2
    assert [copies(2, "avx2", num_threads=number) for number in (1, 2, 16)] == [4, 8, 64]
    assert [copies(64, num_threads=number) for number in (1, 2)] == [4, 8]  # no AVX2: no kernel of its own
    # 4 x 9.4 MB for each of 24 threads are less than a GiB, for 32 they are more
    assert [copies(2, "avx2", num_threads=number, channels=512) for number in (24, 32)] == [96, 4]


@pytest.mark.parametrize("side", [1, 2, 4])
@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_backward_pass_of_a_convolution_agrees_with_the_profiler(
    side, num_threads, dtype, threads_of_its_own
):
    if dtype is torch.bfloat16 and not cpu_has_bfloat16():
        pytest.skip(NO_BFLOAT16)
    torch.set_num_threads(num_threads)

    def make() -> list[torch.Tensor]:
        shapes = ((2, 256, side, side), (256, 256, 3, 3))
        tensors = [torch.ones(shape, dtype=dtype).to(memory_format=torch.channels_last) for shape in shapes]
        return [tensor.requires_grad_() for tensor in tensors]

    images, weights = make()
    maps, gradient = F.conv2d(images, weights, padding=1), torch.ones_like(images)
    peak = peak_of(lambda: torch.autograd.grad(maps, [images, weights], gradient))
    followed = FollowStorages(copies_in_convolutions=True)
    with FakeTensorMode(), followed:
        images, weights = make()
        maps, gradient = F.conv2d(images, weights, padding=1), torch.ones_like(images)
        start, before = len(followed.order), followed.alive_bytes
        torch.autograd.grad(maps, [images, weights], gradient)
        alive = traced = 0
        for number in followed.order[start:]:
            alive += followed.sizes[number] if number >= 0 else -followed.sizes[~number]
            traced = max(traced, alive)
    assert before > 0
    more = num_threads * KEPT_BY_A_THREAD_BYTES + (num_threads - 1) * 4 * weights.numel()
    assert 0.99 * traced <= peak <= 1.01 * traced + more


class TinyTask:
    """Mean of the maps as loss; validated without a score."""

    def compute_loss(self, outputs, batch):
        return outputs.mean()

    def count_targets(self, batch):
        return len(batch.rows)

    def new_scorer(self):
        return TinyScorer()


def test_a_tiny_engine_step_agrees_with_a_count_by_hand(monkeypatch):
    """A 1 x 1 convolution without bias, 3 -> 64 channels, images of 32 x 32, batch B; counted in bytes."""
    monkeypatch.setattr(trace_module, "cpu_instructions", lambda: frozenset({"sse41", "avx2"}))
    config = config_of(model="unet", image_size=(32, 32), refine=False)
    lone = first_phase(config, K)

    def build_trainer(network):
        trainer = lone.build_trainer(network)
        trainer.task = trainer.passes._task = TinyTask()
        return trainer

    phase = replace(lone, build_network=lambda: nn.Conv2d(3, 64, 1, bias=False), build_trainer=build_trainer)
    trace = trace_phase(phase, K, "cpu")
    weights = 64 * 3 * 4
    assert trace.held == {
        "weights": weights,
        "averaged_weights": weights,
        "optimizer_states": 2 * weights + 4,  # exp_avg, exp_avg_sq and a step of one float
    }
    images, maps = 3 * 32 * 32 * 4, 64 * 32 * 32 * 4
    batch = images + K * 2 * 4 + K * 2 * 8 + 2 * 3 * 8 + 2 * 8 + 8  # with points, affine, spacing and row
    copies = weights if torch.backends.mkldnn.is_available() else 0
    # validation: the images twice (as read, and channels-last) and the maps, beside which the kernel's copy
    # of the weights comes and goes, or the mean of four bytes and the mean times one
    held = sum(trace.held.values())
    (validation,) = trace.lifetimes.validation_moments()
    assert validation.bytes_per_image == batch + images + maps
    assert validation.constant_bytes == held + max(copies, 4)
    # training: backward, when the maps have gone and their gradient is there, then the weights' gradient and
    # its copies; the loss, its product with a weight of one and its gradient are of four bytes each
    training = trace.lifetimes.training_moments()[-1]
    assert training.bytes_per_image == batch + images + maps
    assert training.constant_bytes == pytest.approx(held + weights + 2 * copies, abs=16)


class TinyScorer:
    def add(self, outputs, batch):
        pass

    def metrics(self):
        return {}


class RealSteps:
    """Real steps of a phase on the CPU, their peaks read from the profiler's memory events."""

    def __init__(self, phase: LonePhase) -> None:
        self.phase = phase
        self.trainer = phase.build_trainer(phase.build_network())
        self.trainer.state.network.train()
        self.trainer.train_step([phase.make_training_batch(2)])  # makes the optimizer's states

    def peaks(self, batch_size: int) -> tuple[int, int]:
        """Bytes of a training and of a validation step."""
        batch = self.phase.make_training_batch(batch_size)
        training = self._bytes_between_steps(batch) + peak_of(lambda: self.trainer.train_step([batch]))
        batch = self.phase.make_validation_batch(batch_size)
        validation = peak_of(lambda: run_validation_step(self.trainer, batch))
        return training, self._bytes_between_steps(batch) + validation

    def _bytes_between_steps(self, batch) -> int:
        trainer = self.trainer
        states = [value for state in trainer.state.optimizer.state.values() for value in state.values()]
        networks = [
            *trainer.state.network.state_dict().values(),
            *trainer.state.ema_network.state_dict().values(),
        ]
        return sum(tensor.numel() * tensor.element_size() for tensor in [*networks, *states, *batch])


def peak_of(step) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def assert_peaks_agree(phase: LonePhase, *batch_sizes: int) -> None:
    """The peaks agree to 1 % on one thread; further threads may take more, never less."""
    num_threads = torch.get_num_threads()
    lifetimes = trace_phase(phase, K, "cpu").lifetimes
    more = num_threads * KEPT_BY_A_THREAD_BYTES + (num_threads - 1) * largest_gradient_bytes(phase)
    real = RealSteps(phase)
    for batch_size in batch_sizes:
        for moments, peak in zip(
            (lifetimes.training_moments(), lifetimes.validation_moments()),
            real.peaks(batch_size),
            strict=True,
        ):
            traced = max(moment.bytes_at(batch_size) for moment in moments)
            assert 0.99 * traced <= peak <= (1.01 * traced if num_threads == 1 else 1.01 * traced + more)


def largest_gradient_bytes(phase: LonePhase) -> int:
    return max(4 * weights.numel() for weights in phase.build_network().parameters() if weights.ndim == 4)


@pytest.mark.parametrize("size", [128, 256])
@pytest.mark.parametrize("model", MODELS)
def test_the_trace_agrees_with_the_profiler(model, size):
    assert_peaks_agree(first_phase(config_of(model=model, image_size=(size, size), refine=False), K), 2)


def test_the_trace_agrees_with_the_profiler_at_other_batches():
    # at 1 the update of the weights is the highest, then the copies within a convolution, at 5 the loss
    assert_peaks_agree(first_phase(config_of(model="unet", image_size=(128, 128), refine=False), K), 1, 3, 5)


@pytest.mark.skipif(not cpu_has_bfloat16(), reason=NO_BFLOAT16)
@pytest.mark.parametrize("model", MODELS)
def test_the_trace_agrees_with_the_profiler_in_bfloat16(model):
    assert_peaks_agree(
        first_phase(config_of("bfloat16", model=model, image_size=(128, 128), refine=False), K), 2
    )


@pytest.mark.skipif(not cpu_has_bfloat16(), reason=NO_BFLOAT16)
@pytest.mark.parametrize("num_threads", [1, 2])
def test_the_trace_of_a_refinement_agrees_with_the_profiler_in_bfloat16(num_threads, threads_of_its_own):
    torch.set_num_threads(num_threads)
    config = config_of("bfloat16", model="unet", image_size=(64, 64), num_refiners=2)
    assert_peaks_agree(refine_phase(config, K), 2, images_per_crop_batch(config.settings, K))


@pytest.mark.parametrize("loss", ["adaptive_wing", "mse"])
def test_the_trace_of_other_losses_agrees_with_the_profiler(loss):
    assert_peaks_agree(
        first_phase(config_of(model="unet", image_size=(64, 128), loss=loss, refine=False), K), 8
    )


@pytest.mark.parametrize("num_threads", [1, 2])
def test_the_trace_of_a_refinement_agrees_with_the_profiler(num_threads, threads_of_its_own):
    torch.set_num_threads(num_threads)
    config = config_of(model="unet", image_size=(64, 64), num_refiners=2)
    assert_peaks_agree(refine_phase(config, K), 2, images_per_crop_batch(config.settings, K))


@pytest.mark.parametrize("model", ["unet", "hourglass"])
def test_another_batch_takes_the_same_course(model, monkeypatch):
    phase = first_phase(config_of(model=model, image_size=(64, 64), refine=False), K)
    large = trace_phase(phase, K, "cpu").lifetimes
    for batch_size in (2, 3):
        monkeypatch.setattr(trace_module, "TRACED_BATCHES", (batch_size,))
        # every number of bytes is a multiple of 2, so only their order and their sums are the trace's own
        small = trace_phase(phase, K, "cpu").lifetimes
        assert small.training == large.training and small.validation == large.validation
        assert [size.bytes_at(batch_size) for size in small.sizes] == [
            size.bytes_at(batch_size) for size in large.sizes
        ]


def test_the_last_good_state_is_as_large_as_predicted():
    from backend.memory.traced_memory import _snapshot_memory

    phase = first_phase(config_of(model="unet", image_size=(64, 64), refine=False), K)
    trainer = RealSteps(phase).trainer
    snapshot = copy_to_main_memory(trainer.state.state_dict())
    tensors = [t for t in torch.utils._pytree.tree_leaves(snapshot) if isinstance(t, torch.Tensor)]
    predicted = _snapshot_memory(trace_phase(phase, K, "cpu")).bytes_at(1)
    assert predicted == sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def test_a_gpus_batch_is_copied_there_whole_images_and_crops():
    config = config_of(model="unet", image_size=(64, 64), num_refiners=1)
    for phase, images in (
        (first_phase(config, K), 3 * 64 * 64 * 4),
        (refine_phase(config, K), K * 3 * 64 * 64 * 4),
    ):
        lifetimes = trace_phase(phase, K, "cuda").lifetimes
        births = [lifetimes.sizes[n].bytes_per_image for n in lifetimes.training if n >= 0]
        assert births[0] == images
        assert births.count(K * 2 * 4) >= 1  # its points, and not those of the original image
        assert not [n for n in lifetimes.before if n >= 0 and lifetimes.sizes[n].bytes_per_image]


def test_mixed_precision_saves():
    full, half = (
        trace_phase(first_phase(config_of(mixed, model="unet", image_size=(64, 64)), K), K, "cuda").lifetimes
        for mixed in (False, "float16")
    )
    slopes = [lifetimes.training_moments()[-1].bytes_per_image for lifetimes in (full, half)]
    assert slopes[1] < 0.7 * slopes[0]


def test_accumulated_gradients_lie_beside_the_activations():
    single, many = (
        trace_phase(
            first_phase(config_of(model="unet", image_size=(64, 64), gradient_accumulation_steps=n), K),
            K,
            "cpu",
        )
        for n in (1, 2)
    )
    peaks = [trace.lifetimes.training_moments()[-1].bytes_at(32) for trace in (single, many)]
    assert peaks[1] - peaks[0] > 0.5 * single.held["weights"]


def test_a_refiners_batch_counts_images_with_all_their_crops():
    config = config_of(model="unet", image_size=(64, 64), num_refiners=2)
    phase, refiner = refine_phase(config, K), build_refiner(config, K)
    for batch, is_training, num_crops in (
        (phase.make_training_batch(3), True, 2 * K),  # each network has crops of its own
        (phase.make_validation_batch(3), False, K),
    ):
        assert batch.images.shape == (3, num_crops, 3, 64, 64)
        assert batch.affine_input_to_image.shape == (3, num_crops, 2, 3)
        with torch.no_grad():
            assert refiner.train(is_training)(batch.images).shape == (3, num_crops, 32, 32)
