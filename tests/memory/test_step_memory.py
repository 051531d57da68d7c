from __future__ import annotations

import pytest

from backend.config import parse_settings
from backend.memory.lifetimes import Moment
from backend.memory.prediction import predict_step_memory
from backend.memory.step_memory import (
    ALLOCATOR_MARGIN,
    PhaseMemory,
    StepMemory,
    memory_from_dict,
    memory_to_dict,
)
from backend.memory.traced_memory import CUDA_CONTEXT_BYTES

K = 5
SMALL = parse_settings({"model": "unet", "image_size": (64, 64), "refine": False})
REFINED = SMALL.model_copy(update={"refine": True, "num_refiners": 2})


def phase_of(**changes) -> PhaseMemory:
    given = {
        "training": [Moment(1000, 0), Moment(500, 100)],
        "validation": [Moment(300, 120)],
        "held": {"weights": 300},
        "beside": {"workspace": Moment(7, 3), "context": Moment(40, 0)},
        "allocator_margin": 0.05,
    }
    return PhaseMemory(**(given | changes))


def test_terms_by_hand():
    phase = phase_of()
    assert phase.terms_at(2) == {
        "weights": 300,
        "activations_and_gradients": 700,  # the update of the weights is the highest moment
        "workspace": 13,
        "context": 40,
        "allocator_margin": 50,  # a twentieth of what is alive
    }
    assert phase.alive_at(8) == 500 + 800
    assert phase.alive_at(20) == 300 + 2400  # validation
    assert phase.terms_at(8)["allocator_margin"] == 65
    assert "allocator_margin" not in phase_of(allocator_margin=0.0).terms_at(8)


def test_the_phase_that_needs_most_decides():
    first, second = phase_of(), phase_of(batch_size=6, training=[Moment(2000, 0)], allocator_margin=0.001)
    memory = StepMemory([first, second], 1)
    assert memory.bytes_at(1) == memory.bytes_at(2) == 2000 + 25 + 40 + 2
    assert memory.terms_at(1)["allocator_margin"] == 2
    assert memory.bytes_at(30) == sum(first.terms_at(30).values()) > 2067


def test_json_and_back():
    memory = StepMemory([phase_of(), phase_of(batch_size=6)], 17)
    assert memory_from_dict(memory_to_dict(memory)) == memory


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_terms_sum_up_to_what_must_fit(device):
    memory = predict_step_memory(REFINED, K, device)
    for batch_size in (1, 2, 5, 9, 64, 200):
        terms = memory.terms_at(batch_size)
        assert sum(terms.values()) == memory.bytes_at(batch_size)
        assert min(terms.values()) >= 0
    beside = {"cpu": {"last_good_state"}, "cuda:0": {"cuda_context", "cudnn_workspace", "allocator_margin"}}
    held = {"weights", "averaged_weights", "optimizer_states", "activations_and_gradients"}
    assert set(terms) == held | beside[device]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet", "hrnet"])
def test_a_larger_batch_never_looks_smaller(model):
    settings = SMALL.model_copy(update={"model": model, "image_size": (128, 128)})
    memory = predict_step_memory(settings, K, "cuda:0")
    sizes = [memory.bytes_at(batch_size) for batch_size in range(1, 65)]
    assert sizes == sorted(sizes) and sizes[-1] > sizes[0]


def test_the_terms_are_the_networks():
    memory = predict_step_memory(SMALL, K, "cpu")
    terms = memory.terms_at(2)
    assert terms["weights"] == terms["averaged_weights"] == pytest.approx(4 * memory.num_parameters, rel=2e-3)
    assert terms["optimizer_states"] == pytest.approx(8 * memory.num_parameters, rel=1e-3)
    assert terms["last_good_state"] == pytest.approx(16 * memory.num_parameters, rel=2e-3)


def test_a_gpu_needs_its_context_and_no_last_good_state():
    memory = predict_step_memory(SMALL, K, "cuda:1")
    terms = memory.terms_at(2)
    assert terms["cuda_context"] == CUDA_CONTEXT_BYTES
    assert terms["allocator_margin"] == pytest.approx(ALLOCATOR_MARGIN * memory.phases[0].alive_at(2), abs=1)
    assert predict_step_memory(SMALL, K, "cuda:1") == predict_step_memory(SMALL, K, "cuda:0")


@pytest.mark.parametrize("device", ["cuda:0", "cpu"])
def test_mixed_precision_saves(device):
    both_precisions = [SMALL.model_copy(update={"mixed_precision": mixed}) for mixed in (False, True)]
    full, half = (predict_step_memory(settings, K, device) for settings in both_precisions)
    assert half.bytes_at(64) < full.bytes_at(64)
    steepest = [memory.phases[0].training[-1].bytes_per_image for memory in (full, half)]
    assert steepest[1] < 0.7 * steepest[0]


def test_a_refinement_has_a_batch_of_its_own():
    memory = predict_step_memory(REFINED.model_copy(update={"refine_crops": 640}), K, "cpu")
    assert memory.phases[1].batch_size == 128
    assert memory.bytes_at(1) == memory.bytes_at(4) == sum(memory.phases[1].terms_at(1).values())
    assert len(predict_step_memory(SMALL, K, "cpu").phases) == 1
