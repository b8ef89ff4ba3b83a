# SPDX-License-Identifier: Apache-2.0
"""Where a training run resumes."""

import os
from pathlib import Path

from transformers import TrainerState
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..configuration_clip4str import Clip4STRConfig


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


def check_goes_on(checkpoint: str | os.PathLike, config: Clip4STRConfig):
    """
    Checks that a run with this configuration can go on from a checkpoint: with as many others, its characters would be
    taken for them without an error.

    Raises:
        ValueError: if it is no checkpoint, or one of weights alone, or of other characters, of longer or shorter texts
            or of images of another size.
    """
    if not os.path.isfile(os.path.join(checkpoint, TRAINER_STATE_NAME)):
        raise ValueError(f"{checkpoint} is no checkpoint of a training: it has no {TRAINER_STATE_NAME}.")
    if not os.path.isfile(os.path.join(checkpoint, SCHEDULER_NAME)):
        # `Trainer` would start with the first learning rates again, without a word.
        raise ValueError(
            f"{checkpoint} was saved with --save_only_model, and its training cannot go on: give another output_dir, "
            f"and --model_name_or_path {checkpoint} to start from its weights."
        )
    saved = Clip4STRConfig.from_pretrained(checkpoint)
    for name in ("charset", "max_label_length", "image_size"):
        before, now = getattr(saved, name), getattr(config, name)
        if before != now:
            raise ValueError(
                f"The training of {checkpoint} has {name}={before!r}, not {now!r}: give another output_dir."
            )


__all__ = ["check_goes_on", "last_checkpoint", "steps_of"]
