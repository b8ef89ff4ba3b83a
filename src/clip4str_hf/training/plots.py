# SPDX-License-Identifier: Apache-2.0
"""Plots of a training run; needs the `plots` extra (Matplotlib)."""

import json
import os
from pathlib import Path

from matplotlib.figure import Figure
from transformers.trainer import TRAINER_STATE_NAME

from .checkpoints import last_checkpoint


# The panels that are drawn: for each, entries of `Trainer`'s log and the names of their lines.
PANELS = {
    "loss": {"loss": "training", "eval_loss": "validation"},
    "learning rate": {"learning_rate": "towers"},
    "validation": {"eval_word_accuracy": "word accuracy", "eval_one_minus_ned": "1 - NED"},
}


def load_log_history(folder: str | os.PathLike) -> list[dict]:
    """
    What `Trainer` logged in a run, oldest first.

    Args:
        folder (`str` or `os.PathLike`): the run's output folder, or one of its checkpoints.

    Raises:
        ValueError: if there is neither a `trainer_state.json` nor a checkpoint with one.
    """
    folder = Path(folder)
    last = last_checkpoint(folder)
    for place in (folder, last and Path(last)):
        if place and (place / TRAINER_STATE_NAME).is_file():
            return json.loads((place / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["log_history"]
    raise ValueError(f"{folder} holds no {TRAINER_STATE_NAME}, and no checkpoint that does.")


def training_curves(log_history: list[dict]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """
    The curves in a log: for each panel of `PANELS` its lines, and for each line the `(step, value)` of every entry.
    Lines without entries, and panels without lines, are left out.
    """
    panels = {
        panel: {
            label: [(entry["step"], entry[name]) for entry in log_history if name in entry]
            for name, label in lines.items()
        }
        for panel, lines in PANELS.items()
    }
    panels = {panel: {label: line for label, line in lines.items() if line} for panel, lines in panels.items()}
    return {panel: lines for panel, lines in panels.items() if lines}


def plot_training(log_history: list[dict], title: str) -> Figure:
    """
    Loss, learning rate and validation figures over the steps, one below the other.

    Args:
        log_history (`list[dict]`): the log of `Trainer`, see [`load_log_history`].
        title (`str`): the name of the run.

    Raises:
        ValueError: if the log holds nothing to plot.
    """
    panels = training_curves(log_history)
    if not panels:
        raise ValueError(f"{title} has logged nothing to plot yet.")
    figure = Figure(figsize=(9, 2.8 * len(panels)), layout="constrained")
    figure.suptitle(title)
    for axes, (panel, lines) in zip(figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0], panels.items()):
        for label, line in lines.items():
            axes.plot(*zip(*line), marker="." if len(line) < 50 else "", label=label)
        axes.set_ylabel(panel)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    axes.set_xlabel("step")
    return figure


__all__ = ["load_log_history", "plot_training", "training_curves"]
