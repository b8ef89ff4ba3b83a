# SPDX-License-Identifier: Apache-2.0
"""Plots of evaluations and of training runs show the figures they are made of."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip4str_hf.metrics.analysis import WordAnalysis


pytest.importorskip("matplotlib", reason="plots need matplotlib")

from clip4str_hf.metrics.plots import NOT_THERE, plot_analysis, save_plots
from clip4str_hf.training.plots import load_log_history, plot_training, training_curves


ROOT = Path(__file__).parents[1]
LOG = [
    {"step": 0, "eval_loss": 9.0, "eval_word_accuracy": 0.0, "eval_one_minus_ned": 0.1},
    {"step": 10, "loss": 5.0, "learning_rate": 1e-4, "grad_norm": 2.0},
    {"step": 20, "loss": 4.0, "learning_rate": 5e-5},
    {"step": 20, "eval_loss": 4.5, "eval_word_accuracy": 0.5, "eval_one_minus_ned": 0.7},
    {"step": 20, "train_runtime": 3.0, "train_loss": 4.5},
]


@pytest.fixture
def analysis():
    words = WordAnalysis()
    for word in (("exit", "exit", 0.95), ("t0p", "top", 0.85), ("$x$", "$y$", 0.35), ("ab", "abc", 0.35)):
        words.add(*word)
    return words.results()


def test_the_panels_show_the_analysis(analysis):
    figure = plot_analysis(analysis, "four words")
    lengths, confusions, reliability = figure.axes
    assert [(bar.get_center()[0], bar.get_height()) for bar in lengths.patches] == [(3, 0), (4, 100)]
    names = [label.get_text() for label in confusions.get_yticklabels()]
    assert names == [f"c → {NOT_THERE}", "o → 0", "y → x"]
    assert [bar.get_width() for bar in confusions.patches] == [1, 1, 1]
    shown = [(bar.get_x(), bar.get_height()) for bar in reliability.patches]
    assert np.allclose(shown, [(30, 0), (80, 0), (90, 100)])
    assert "expected error 40.0 %" in reliability.get_title()  # (2 * 35 + 85 + 5) / 4


def test_each_set_and_charset_has_its_picture(analysis, tmp_path):
    figures = {"words": 4, "analysis": analysis}
    empty = {"words": 0, "analysis": WordAnalysis().results()}
    sets = {"IIIT5k": {"36": figures, "94": figures}, "my/words": {"36": figures}, "SVT": None, "none": {"36": empty}}
    files = save_plots(sets, tmp_path / "new" / "plots")
    assert [file.name for file in files] == ["IIIT5k-36.png", "IIIT5k-94.png", "my_words-36.png"]
    assert sorted(files) == sorted((tmp_path / "new" / "plots").iterdir())
    for file in files:
        assert np.asarray(Image.open(file).convert("L")).std() > 10


def test_curves_are_what_the_trainer_logged():
    assert training_curves(LOG) == {
        "loss": {"training": [(10, 5.0), (20, 4.0)], "validation": [(0, 9.0), (20, 4.5)]},
        "learning rate": {"towers": [(10, 1e-4), (20, 5e-5)]},
        "validation": {"word accuracy": [(0, 0.0), (20, 0.5)], "1 - NED": [(0, 0.1), (20, 0.7)]},
    }
    assert list(training_curves(LOG[1:3])) == ["loss", "learning rate"]
    figure = plot_training(LOG, "a run")
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "learning rate", "validation"]
    (accuracy, _) = figure.axes[2].lines
    assert accuracy.get_xydata().tolist() == [[0, 0], [20, 0.5]]
    with pytest.raises(ValueError, match="a run has logged nothing to plot yet"):
        plot_training([], "a run")


def plot(monkeypatch, folder):
    script = str(ROOT / "scripts" / "plot_training.py")
    monkeypatch.setattr(sys, "argv", [script, str(folder)])
    runpy.run_path(script, run_name="__main__")


def test_the_log_of_a_run_is_found_in_its_last_checkpoint(tmp_path, monkeypatch, capsys):
    for step, log in (("checkpoint-20", LOG), ("checkpoint-9", LOG[:1])):
        (tmp_path / step).mkdir()
        (tmp_path / step / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    assert load_log_history(tmp_path) == LOG
    assert load_log_history(tmp_path / "checkpoint-9") == LOG[:1]
    plot(monkeypatch, tmp_path)
    assert capsys.readouterr().out.strip() == str(tmp_path / "training.png")
    assert Image.open(tmp_path / "training.png").width > 500


def test_a_folder_without_a_run_is_said(tmp_path, monkeypatch):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"holds no trainer_state\.json"):
            load_log_history(folder)
    with pytest.raises(SystemExit, match=r"holds no trainer_state\.json"):
        plot(monkeypatch, tmp_path)
    assert not list(tmp_path.iterdir())
