"""Run the phases of a training: `train`, the network on whole images; then `refine`, a second one on crops.

The crops lie about the points that the first network predicts.
"""

from __future__ import annotations

from backend.data.restored_splits import check_landmarks
from backend.errors import UserError
from backend.run.best import REFINE, TRAIN
from backend.training.checkpoint import load_best, load_resumable
from backend.training.conclusion import conclude
from backend.training.engine import Trainer
from backend.training.first_network import adopt_first_network
from backend.training.first_phase import build_first_trainer
from backend.training.loop_state import Ending, StopAskedError
from backend.training.refine_phase import build_refine_trainer
from backend.training.run_data import RunData

# torch's message if a lone image is reduced to one cell
NO_STATISTICS = "Expected more than 1 value per channel when training"
REFINED_AFTER = (Ending.COMPLETED, Ending.EARLY_STOPPED)  # the first network will not improve


def train_phases(data: RunData) -> tuple[Ending, str]:
    """Train what is not trained yet. Return how it ended and one line about it.

    A new run starts with the first network, its own or another run's. A resumed run goes on with the phase of
    its last.pt. The second network follows if the first one will not improve any more.
    """
    last_path = data.folder.checkpoint_path("last")
    last_path.parent.mkdir(exist_ok=True)
    last = load_resumable(last_path) if last_path.is_file() else None
    if last is not None:
        check_landmarks(last["landmark_names"], (), data.landmark_names)
    if last is None and data.config.settings.first_network:
        # a best.pt without a last.pt: killed before last.pt was first saved
        if load_best(data.folder.checkpoint_path("best")) is None:
            adopt_first_network(data)
    elif last is None or last["phase"] == TRAIN:
        trainer = build_first_trainer(data, last)
        ending = _fit(trainer)
        if ending is Ending.COMPLETED and data.config.settings.refine and data.folder.requested("finish"):
            ending = Ending.FINISHED_EARLY  # requested in the last epoch, which ends by itself
        if ending not in REFINED_AFTER or not data.config.settings.refine:
            return conclude(data, TRAIN, ending, trainer)
        last = None
        del trainer  # frees its memory before the second network is built
    try:
        trainer = build_refine_trainer(data, last)
    except StopAskedError:
        result = "resume goes on from there" if last_path.is_file() else "nothing was trained yet"
        return Ending.STOPPED, f"stopped in the predictions of the first network; {result}"
    return conclude(data, REFINE, _fit(trainer), trainer)


def _fit(trainer: Trainer) -> Ending:
    try:
        return trainer.fit()
    except ValueError as error:
        if NO_STATISTICS not in str(error):
            raise
        raise UserError(
            "batch normalization cannot use a single image that the network reduces to one cell",
            field="batch_size",
            cure="choose a batch size that leaves no image of an epoch alone, or larger images",
        ) from error
