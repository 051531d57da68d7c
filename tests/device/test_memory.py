from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from backend.config import Choice, RunConfig, parse_settings
from backend.device import memory
from backend.device.memory import (
    CUDA_CONTEXT_BYTES,
    WORKSPACE_SHARE,
    FollowStorages,
    LonePhase,
    Moment,
    first_phase,
    predict_step_memory,
    refine_phase,
    run_validation_step,
    upper_envelope,
)
from backend.training.build import build_network, build_refiner, images_of_crops

K = 5
UNET = parse_settings({"model": "unet", "image_size": (128, 128), "refine": False})
SMALL = parse_settings({"model": "unet", "image_size": (64, 64), "refine": False})
REFINED = SMALL.model_copy(update={"refine": True, "num_refiners": 2})


@pytest.fixture(scope="module")
def unet_need():
    return predict_step_memory(UNET, K, "cpu")


def test_a_tiny_step_agrees_with_a_count_by_hand():
    followed = FollowStorages()
    with FakeTensorMode(), followed:
        layer = nn.Linear(8, 16, bias=False)  # 512 bytes
        inputs = torch.zeros(4, 8)  # 128
        assert followed.alive_bytes == 640
        with followed.recorded() as record:
            # maps 256, relu 256 beside them, then only relu and the loss 4; backward: seed 4,
            # the relu's gradient 256, and, after relu has gone, the weights' gradient 512
            torch.relu(layer(inputs)).sum().backward()
    assert record[:3] == [640, 640 + 256, 640 + 512]
    assert max(record) == 640 + 4 + 4 + 256 + 512


def test_storages_that_are_views_or_gone_do_not_count():
    followed = FollowStorages()
    with FakeTensorMode(), followed:
        tensor = torch.zeros(10)
        view = tensor.view(2, 5)
        del tensor
        assert followed.alive_bytes == 40
        del view
        assert followed.alive_bytes == 0


class RealSteps:
    """Real steps of a phase on the CPU, their peaks read from the profiler's memory events."""

    def __init__(self, phase: LonePhase) -> None:
        self.phase = phase
        self.trainer = phase.build_trainer(phase.build_network())
        self.trainer.network.train()
        self.trainer._train_step([phase.make_batch(2)])  # makes the optimizer's states

    def peaks(self, batch_size: int) -> tuple[int, int]:
        """Bytes of a training and of a validation step."""
        batch = self.phase.make_batch(batch_size)
        training = peak_of(lambda: self.trainer._train_step([batch]))
        validation = peak_of(lambda: run_validation_step(self.trainer, batch))
        before = self._bytes_between_steps(batch)
        return before + training, before + validation

    def _bytes_between_steps(self, batch) -> int:
        trainer = self.trainer
        states = [value for state in trainer._optimizer.state.values() for value in state.values()]
        networks = [*trainer.network.state_dict().values(), *trainer.ema_network.state_dict().values()]
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


def without_workspace(moments, batch_size: int) -> float:
    share = 1 + WORKSPACE_SHARE["cpu"]
    return max(m.constant_bytes + m.bytes_per_image / share * batch_size for m in moments)


def config_of(settings) -> RunConfig:
    return RunConfig(settings, {"device": Choice("cpu", "test"), "mixed_precision": Choice(False, "test")})


def test_the_trace_agrees_with_the_profiler(unet_need):
    real = RealSteps(first_phase(config_of(UNET), K))
    # at 2 the update of the weights is the peak, at 10 the loss; between them, at 5, the copies of weights that
    # a convolution makes inside itself reach 4 %, and so they do in validation
    for batch_size in (2, 10):
        training, validation = real.peaks(batch_size)
        assert without_workspace(unet_need.training, batch_size) == pytest.approx(training, rel=0.005)
        assert without_workspace(unet_need.validation, batch_size) == pytest.approx(validation, rel=0.04)


def test_a_third_batch_lies_on_the_lines_of_two(unet_need):
    (trace,) = memory._trace(first_phase(config_of(UNET), K), "cpu", [7])
    assert max(trace.training) == pytest.approx(without_workspace(unet_need.training, 7), rel=1e-6)
    assert max(trace.validation) == pytest.approx(without_workspace(unet_need.validation, 7), rel=1e-6)


def test_terms_are_the_networks(unet_need):
    config = RunConfig(UNET, {})
    tensors = build_network(config, K).state_dict().values()
    weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert unet_need.terms["weights"] == unet_need.terms["averaged_weights"] == weights
    assert unet_need.terms["optimizer_states"] == pytest.approx(2 * unet_need.terms["gradients"], rel=1e-3)
    assert unet_need.terms["cuda_context"] == 0


def test_steepest_and_floor_bound_every_batch(unet_need):
    for batch_size in range(1, 20):
        line = unet_need.steepest.bytes_at(batch_size)
        bound = max(unet_need.floor_bytes, line)
        assert bound >= unet_need.training_bytes(batch_size) - 1
        assert bound >= unet_need.validation_bytes(batch_size) - 1
    assert unet_need.training_bytes(16) == round(unet_need.steepest.bytes_at(16))


@pytest.mark.parametrize("batch_size", [1, 2, 9, 64])
def test_terms_sum_up_to_what_must_fit(unet_need, batch_size):
    needed = unet_need.bytes_at(batch_size)
    assert needed == max(unet_need.training_bytes(batch_size), unet_need.validation_bytes(batch_size))
    assert sum(unet_need.terms_at(batch_size).values()) == needed


def test_mixed_precision_saves_on_a_gpu_only():
    mixed = SMALL.model_copy(update={"mixed_precision": True})
    on_gpu, on_gpu_mixed = (predict_step_memory(s, K, "cuda:0") for s in (SMALL, mixed))
    assert on_gpu_mixed.steepest.bytes_per_image < 0.7 * on_gpu.steepest.bytes_per_image
    assert on_gpu.terms["cuda_context"] == CUDA_CONTEXT_BYTES
    assert predict_step_memory(mixed, K, "cpu") == predict_step_memory(SMALL, K, "cpu")


def test_accumulated_gradients_lie_beside_the_activations():
    many = SMALL.model_copy(update={"gradient_accumulation_steps": 4})
    one, added = (predict_step_memory(s, K, "cpu") for s in (SMALL, many))
    assert added.training_bytes(32) - one.training_bytes(32) > 0.5 * one.terms["gradients"]


@pytest.mark.parametrize("model", ["hourglass", "resnet"])
def test_other_networks_and_losses_can_be_traced(model):
    settings = parse_settings({"model": model, "image_size": (64, 64), "loss": "adaptive_wing"})
    need = predict_step_memory(settings, K, "cuda:0")
    assert need.training_bytes(64) > need.training_bytes(2) > CUDA_CONTEXT_BYTES + need.terms["weights"]


def test_the_trace_of_a_refinement_agrees_with_the_profiler():
    phase = refine_phase(config_of(REFINED), K)
    batch_size = images_of_crops(REFINED, K)
    (trace,) = memory._trace(phase, "cpu", [batch_size])
    training, validation = RealSteps(phase).peaks(batch_size)
    assert max(trace.training) == pytest.approx(training, rel=0.02)
    assert max(trace.validation) == pytest.approx(validation, rel=0.04)


def test_a_refinement_counts_where_it_needs_more_than_the_first_network():
    without, refined = (predict_step_memory(settings, K, "cpu") for settings in (SMALL, REFINED))
    assert without.refinement_bytes == 0 and "refinement" not in without.terms
    assert refined.refinement_bytes == refined.terms["refinement"] > 0
    assert (refined.training, refined.validation) == (without.training, without.validation)
    assert without.floor_bytes > refined.refinement_bytes  # 17 M weights weigh more than 64 crops of 2 x 2 M
    assert refined.floor_bytes == without.floor_bytes
    many = predict_step_memory(REFINED.model_copy(update={"refine_crops": 640}), K, "cpu")
    assert many.refinement_bytes > 4 * refined.refinement_bytes
    assert many.floor_bytes == many.refinement_bytes > without.training_bytes(2)
    assert predict_step_memory(REFINED, K, "cuda:0").refinement_bytes > CUDA_CONTEXT_BYTES


def test_a_refinement_alone_decides_only_small_batches():
    need = predict_step_memory(REFINED.model_copy(update={"refine_crops": 640}), K, "cpu")
    for batch_size in (1, 2, 8, 32, 128, 1024):
        bound = max(need.floor_bytes, need.steepest.bytes_at(batch_size))
        assert bound >= max(need.training_bytes(batch_size), need.refinement_bytes) - 1


def test_a_mixed_precision_refinement_can_be_traced_and_saves():
    mixed = REFINED.model_copy(update={"mixed_precision": True})
    full, half = (
        predict_step_memory(settings, K, "cuda:0").refinement_bytes for settings in (REFINED, mixed)
    )
    assert half < full


def test_a_refiners_batch_counts_images_with_all_their_crops():
    batch = refine_phase(config_of(REFINED), K).make_batch(3)
    assert batch.images.shape == (3, K, 3, 64, 64)
    assert batch.affine_input_to_image.shape == (3, K, 2, 3)
    with torch.no_grad():
        assert build_refiner(config_of(REFINED), K).eval()(batch.images).shape == (3, K, 32, 32)


def test_the_envelope_keeps_what_is_highest_somewhere():
    flat, middle, low, steep = Moment(10, 0), Moment(6, 2), Moment(1, 1), Moment(0, 4)
    assert upper_envelope([steep, low, middle, flat]) == [flat, middle, steep]
    assert upper_envelope([steep, low]) == [steep]
