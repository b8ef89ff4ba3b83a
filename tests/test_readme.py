# SPDX-License-Identifier: Apache-2.0
"""What the README shows runs as it stands."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
NEEDS_THE_HUB = ("openai/", "push_to_hub")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of what the examples name, so that they write nothing into the checkout."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "tests" / "data" / "words", folder / "tests" / "data" / "words")
    return folder


def test_the_python_examples_run(folder):
    examples = [block for block in PYTHON if not any(name in block for name in NEEDS_THE_HUB)]
    assert len(examples) == 3
    run = subprocess.run([sys.executable, "-c", "\n".join(examples)], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "eval_word_accuracy" in run.stdout
    assert (folder / "my-reader" / "config.json").exists() and (folder / "my-reader" / "vocab.json").exists()


def test_the_first_command_prints_what_the_readme_says():
    command = re.search(r"&& python (scripts/read\.py .*)", README)[1]
    run = subprocess.run([sys.executable, *shlex.split(command)], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    shown = re.search(r"```text\n(.*?)```", README, flags=re.DOTALL)[1]

    def without_confidence(lines):
        return [line.rsplit("\t", 1)[0] for line in lines.splitlines()]

    assert without_confidence(run.stdout) == without_confidence(shown)
