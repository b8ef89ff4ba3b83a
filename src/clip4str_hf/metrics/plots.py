# SPDX-License-Identifier: Apache-2.0
"""Plots of an evaluation; needs the `plots` extra (Matplotlib)."""

import os
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


MOST_CONFUSIONS = 20
NOT_THERE = "∅"


def save_plots(sets: dict[str, dict[str, dict] | None], folder: str | os.PathLike) -> list[Path]:
    """
    Writes a picture for each set and charset: `SET-CHARSET.png`.

    Args:
        sets (`dict`): for each set what [`evaluate_words`] gives with `analyze=True`; `None` for a missing one.
        folder (`str` or `os.PathLike`): where to write them; made if need be.

    Returns:
        `list[Path]`: the files. Sets without words have none.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, charsets in sets.items():
        for charset, figures in (charsets or {}).items():
            if figures["words"]:
                file = folder / f"{name.replace(os.sep, '_')}-{charset}.png"
                title = f"{name}, {figures['words']} words, charset {charset}"
                plot_analysis(figures["analysis"], title).savefig(file, dpi=120)
                files.append(file)
    return files


def plot_analysis(analysis: dict, title: str) -> Figure:
    """
    Accuracy by length, the most frequent confusions and the reliability diagram, side by side.

    Args:
        analysis (`dict`): what [`~WordAnalysis.results`] gives.
        title (`str`): what was read.
    """
    figure = Figure(figsize=(16, 5), layout="constrained")
    figure.suptitle(title)
    by_length, confusions, reliability = figure.subplots(1, 3)
    _plot_lengths(by_length, analysis["accuracy_by_length"])
    _plot_confusions(confusions, analysis["confusions"])
    _plot_reliability(reliability, analysis["reliability"], analysis["expected_calibration_error"])
    return figure


def _plot_lengths(axes: Axes, rows: list[dict]):
    bars = axes.bar([row["length"] for row in rows], [100 * row["correct"] / row["words"] for row in rows])
    axes.bar_label(bars, [str(row["words"]) for row in rows], fontsize="x-small", color="grey")
    axes.set(title="By length (words above the bars)", xlabel="characters of the label", ylabel="word accuracy in %")
    axes.set_ylim(0, 108)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _plot_confusions(axes: Axes, rows: list[dict]):
    rows = rows[:MOST_CONFUSIONS]
    names = [f"{row['label'] or NOT_THERE} → {row['prediction'] or NOT_THERE}" for row in rows]
    places = range(len(rows))
    bars = axes.barh(places, [row["count"] for row in rows], tick_label=names)
    axes.bar_label(bars, fontsize="x-small", color="grey", padding=2)
    axes.invert_yaxis()
    # Characters stand for themselves, and are not formulas.
    for label in axes.get_yticklabels():
        label.set(parse_math=False, fontsize="small")
    axes.set(title=f"Most frequent confusions ({NOT_THERE}: nothing there)", xlabel="label → prediction, times")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _plot_reliability(axes: Axes, rows: list[dict], error: float):
    filled = [row for row in rows if row["words"]]
    starts = [100 * row["low"] for row in filled]
    heights, widths = [100 * row["accuracy"] for row in filled], [100 * (row["high"] - row["low"]) for row in filled]
    bars = axes.bar(starts, heights, widths, align="edge", edgecolor="white")
    axes.bar_label(bars, [str(row["words"]) for row in filled], fontsize="x-small", color="grey", padding=6)
    confidences = [100 * row["mean_confidence"] for row in filled]
    axes.plot(confidences, heights, "o", color="black", label="mean confidence")
    axes.plot([0, 100], [0, 100], "--", color="grey", label="calibrated")
    axes.set(xlabel="confidence in %", ylabel="words that are right in %", xlim=(0, 100), ylim=(0, 112))
    axes.set_title(f"Calibration, expected error {100 * error:.1f} %")
    axes.legend(loc="upper left", fontsize="small")


__all__ = ["plot_analysis", "save_plots"]
