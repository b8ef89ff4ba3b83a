# SPDX-License-Identifier: Apache-2.0
"""What the README shows runs as it stands."""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clip4str_hf import Clip4STRConfig, default_checkpoint


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL) for line in block.splitlines()]
NEEDS_THE_HUB = ("openai/", "push_to_hub")
# The commands as they stand, with the words and the fonts that every checkout has.
AT_HAND = {
    "/usr/share/fonts/truetype/dejavu": "tests/data/fonts",
    "/usr/share/fonts/truetype/liberation": "tests/data/fonts",
    "/usr/share/fonts": "tests/data/fonts",
    "/usr/share/dict/american-english-huge": "tests/data/words.txt",
    "training-words.txt": "tests/data/ukrainian_words.txt",
    "held-out-words.txt": "tests/data/ukrainian_words.txt",
    "my-words": "tests/data/words",
    "my-validation-words": "tests/data/words",
    "words=my-test-words": "words=tests/data/words",
    "plates-test": "tests/data/words",
    "plates": "tests/data/words",
    "src/": f"{ROOT}/src/",
    "scripts/": f"{ROOT}/scripts/",
}
SMALL_SCALE = "--max_steps 2 --eval_steps 2 --save_steps 2 --per_device_train_batch_size 4 --dataloader_num_workers 0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of what the examples name, so that they write nothing into the checkout."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "tests" / "data", folder / "tests" / "data")
    return folder


def run(folder, beginning, *more):
    """Runs the command of the README that begins so."""
    (command,) = [command for command in COMMANDS if command.startswith(beginning)]
    for name, path in AT_HAND.items():
        command = re.sub(rf"(?<=[ ]){re.escape(name)}", path, command)
    command = [sys.executable, *shlex.split(command)[1:], *more]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_python_examples_run(folder):
    examples = [block for block in PYTHON if not any(name in block for name in NEEDS_THE_HUB)]
    assert len(examples) == 7
    # The answers that stand beside them, except that of a training.
    examples.append(
        """
assert reader(word)[0]["generated_text"] == "Pharmacy"
assert reader("tests/data/words/word_264.webp", prefix_allowed_tokens_fn=follow)[0]["generated_text"] == "7-9pm"
assert maps.shape == (8, image.height, image.width)
"""
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(examples)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "eval_word_accuracy" in done.stdout
    assert (folder / "where.png").exists()
    assert (folder / "my-reader" / "config.json").exists() and (folder / "my-reader" / "vocab.json").exists()


def test_the_first_command_prints_what_the_readme_says():
    command = re.search(r"&& python (scripts/read\.py .*)", README)[1]
    done = subprocess.run([sys.executable, *shlex.split(command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = re.search(r"```text\n(.*?)```", README, flags=re.DOTALL)[1]

    def without_confidence(lines):
        return [line.rsplit("\t", 1)[0] for line in lines.splitlines()]

    assert without_confidence(done.stdout) == without_confidence(shown)


def test_the_temperature_is_that_of_the_shipped_reader():
    temperature = Clip4STRConfig.from_pretrained(default_checkpoint()).confidence_temperature
    card = (ROOT / "model_cards" / "clip4str-small.md").read_text(encoding="utf-8")
    assert all(f"{temperature:.4f}" in text for text in (README, card))


def test_the_accuracies_are_those_of_the_card():
    card = (ROOT / "model_cards" / "clip4str-small.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"\| default: both branches, one refinement \| (.*) \|", card)
    *of_sets, overall = row.split(" | ")
    assert f"reads {overall} % of 608" in README
    assert [re.search(rf"\b{name} ([\d.]+)", README)[1] for name in ("IIIT5K", "IC15", "IC03", "SVT")] == of_sets


@pytest.mark.parametrize(
    "script", sorted({name for line in COMMANDS for name in re.findall(r"(scripts/\w+\.py).* --", line)})
)
def test_the_options_are_those_of_the_scripts(script, monkeypatch, capsys):
    """Of those commands too that cannot be run here."""
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / script), run_name="__main__")
    known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    used = {flag for line in COMMANDS if script in line for flag in re.findall(r"--[\w-]+", line.split(script)[1])}
    assert used <= known


def test_the_command_that_fine_tunes(folder):
    """As it stands, on the twelve crops."""
    printed = run(folder, "python scripts/train.py --train_data tests")
    assert "eval_word_accuracy" in printed
    assert (folder / "fine-tuned-reader" / "model.safetensors").exists()
    assert len(run(folder, "python scripts/read.py --model fine-tuned-reader").splitlines()) == 12


def test_the_command_that_trains_from_nothing(folder):
    printed = run(folder, "python scripts/train.py --config_name", *SMALL_SCALE.split())
    assert "eval_word_accuracy" in printed
    assert (folder / "small-reader" / "model.safetensors").exists()


def test_the_commands_on_words(folder):
    assert "20 words in" in run(folder, "python scripts/render_words.py rendered-words", "--num-words", "20")
    assert "12 words" in run(folder, "python scripts/prepare_dataset.py")
    assert "| words |" in run(folder, "python scripts/evaluate.py --data")
    assert (folder / "misreads.tsv").exists() and (folder / "results" / "results.json").exists()


def test_the_commands_that_fill_a_card_and_publish(folder):
    """All but the upload."""
    reader = folder / "fine-tuned-reader"
    if not reader.exists():  # the command that fine-tunes was not run before
        shutil.copytree(default_checkpoint(), reader)
    run(folder, "python scripts/evaluate.py --model fine-tuned-reader")
    card = (reader / "README.md").read_text(encoding="utf-8")
    assert "| words (12 words) | refine_iters 1," in card
    assert "[More Information Needed]" in card
    card = card.replace("[More Information Needed]", "Told.").replace("---\n", "---\nlicense: mit\n", 1)
    (reader / "README.md").write_text(card, encoding="utf-8")
    printed = run(folder, "python scripts/push_checkpoint.py", "--dry-run")
    assert "model.safetensors" in printed and "Fit for me/my-reader" in printed


def test_the_commands_for_another_script(folder):
    assert "20 words in" in run(folder, "python scripts/render_words.py ukrainian-validation", "--num-words", "20")
    printed = run(folder, "python scripts/train.py --charset @", *SMALL_SCALE.split())
    assert "eval_word_accuracy" in printed
    assert "ґ" in (folder / "ukrainian-reader" / "vocab.json").read_text(encoding="utf-8")
    printed = run(folder, "python scripts/evaluate.py --model ukrainian-reader")
    assert "| words | 20 |" in printed


def test_the_commands_for_plates(folder):
    run(folder, "python scripts/train.py --train_data plates", "--num_train_epochs", "1")
    assert "| words | 12 |" in run(folder, "python scripts/evaluate.py --model plate-reader")


def test_the_command_for_several_words(folder):
    run(folder, "python scripts/train.py --train_data my-words --charset", "--num_train_epochs", "1")
    config = json.loads((folder / "sign-reader" / "config.json").read_text())
    assert config["max_label_length"] == 40 and config["charset"].endswith("YZ ")
