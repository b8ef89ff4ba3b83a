# SPDX-License-Identifier: Apache-2.0
"""Where a training run resumes."""

import os
from pathlib import Path

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


def last_checkpoint(folder: str | os.PathLike) -> str | None:
    """
    The last complete checkpoint in a run's output folder, or `None`. `Trainer` writes its state last, so a checkpoint
    that was still being written when the run was stopped has none.
    """
    states = Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}")
    steps = {state.parent.name.rpartition("-")[2]: state.parent for state in states}
    whole = {int(step): path for step, path in steps.items() if step.isdecimal()}
    return str(whole[max(whole)]) if whole else None


def steps_of(checkpoint: str | os.PathLike) -> int:
    """The number of steps that were trained before a checkpoint was written."""
    return TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME)).global_step


__all__ = ["last_checkpoint", "steps_of"]
