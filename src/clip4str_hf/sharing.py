# SPDX-License-Identifier: Apache-2.0
"""Publishes a reader: makes a complete copy, finds what is wrong with it, and pushes it to the Hub in one commit."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.utils import validate_repo_id
from PIL import Image, ImageDraw, ImageFont

# The HTTP client of huggingface_hub: the package behind it depends on the version of huggingface_hub.
from transformers.image_utils import httpx

from .card_clip4str import METADATA, MISSING, NO_REPO
from .reading import load_reader


# Reads as someone would who has the folder and Transformers, but not this package.
STRANGER = """
import importlib.abc, json, sys

class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "clip4str_hf":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hide())
from transformers import pipeline
print(json.dumps(pipeline("image-to-text", model=sys.argv[1], trust_remote_code=True)(sys.argv[2])[0]))
"""
# Marks what is still to be filled in, in the cards that transformers drafts.
PLACEHOLDER = re.compile(rf"{re.escape(MISSING)}|^More information needed$", flags=re.MULTILINE)


def complete_copy(folder: str | os.PathLike, copy: str | os.PathLike, repo_id: str, card: str | os.PathLike):
    """
    Writes a reader as it must be on the Hub: weights, configurations, processor, the code of the model, and its card.

    Args:
        folder (`str` or `os.PathLike`): the reader, saved by this package, `Trainer` or transformers.
        copy (`str` or `os.PathLike`): an empty folder to write to.
        repo_id (`str`): the Hub id that it will have, for a card that does not name it yet.
        card (`str` or `os.PathLike`): the file with its card.

    Raises:
        ValueError: if the reader cannot be loaded, weights are missing or there is no card; the message says why.
    """
    if not Path(card).exists():
        raise ValueError(f"There is no card {card}: scripts/evaluate.py --card makes one, with measured results.")
    text = Path(card).read_text(encoding="utf-8")
    model, processor = load_reader(folder, local_files_only=True)
    model.save_pretrained(copy)
    processor.save_pretrained(copy)
    Path(copy, "README.md").write_text(text.replace(NO_REPO, repo_id), encoding="utf-8")


def problems_of_card(card: ModelCard) -> list[str]:
    """What a card lacks that others need to use the reader."""
    problems = [
        f"{field}: {value} is missing" for field, value in METADATA.items() if getattr(card.data, field) != value
    ]
    if not card.data.license:
        problems.append("license is missing")
    sections = re.split(r"^#+ (.+)$", f"# before any heading\n{card.text}", flags=re.MULTILINE)
    for heading, text in zip(sections[1::2], sections[2::2]):
        if PLACEHOLDER.search(text):
            problems.append(f"{heading}: to be filled in")
    if not "".join(sections[2::2]).strip():
        problems.append("there is no text")
    return problems


def read_as_stranger(folder: str | os.PathLike, image: str | os.PathLike) -> dict:
    """
    Reads an image in a fresh interpreter that has no access to this package or to the Hub.

    Returns:
        `dict`: `generated_text` and `score`.

    Raises:
        ValueError: if that fails; the message ends with the last line of the interpreter's errors.
    """
    with tempfile.TemporaryDirectory() as cache:
        run = subprocess.run(
            [sys.executable, "-c", STRANGER, os.fspath(folder), os.fspath(image)],
            capture_output=True,
            text=True,
            env=os.environ | {"HF_MODULES_CACHE": cache, "HF_HUB_OFFLINE": "1"},
        )
    if run.returncode:
        said = run.stderr.strip().splitlines() or [f"the interpreter ended with status {run.returncode}"]
        raise ValueError(f"{image} cannot be read with it: {said[-1]}")
    return json.loads(run.stdout.splitlines()[-1])


def draw_sample(path: str | os.PathLike, charset: str):
    """Draws a word of the charset with Pillow's own font."""
    word = "".join(character for character in "Exit" if character in charset) or charset[:4]
    font = ImageFont.load_default(size=32)
    image = Image.new("RGB", (int(font.getlength(word)) + 16, 48), "white")
    ImageDraw.Draw(image).text((8, 4), word, "black", font)
    image.save(path)


def check_destination(repo_id: str):
    """
    Checks the name of a repository before any work is done.

    Raises:
        ValueError: if `repo_id` is not `OWNER/NAME`.
    """
    validate_repo_id(repo_id)  # raises a ValueError
    if "/" not in repo_id:
        raise ValueError(f"{repo_id} must be OWNER/NAME.")


def push(
    folder: str | os.PathLike,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    commit_message: str = "Upload reader",
) -> CommitInfo:
    """
    Uploads the files of a folder in a single commit: others see either all of them or what was there before.

    Args:
        folder (`str` or `os.PathLike`): what [`complete_copy`] wrote.
        repo_id (`str`): the repository, which is created if it does not exist.
        private (`bool`, *optional*, defaults to `False`): whether the repository is to be private.
        revision (`str`, *optional*): a branch, which is created if it does not exist. Defaults to `main`.
        commit_message (`str`, *optional*): the message of the commit.

    Raises:
        ValueError: if `private` is set, but the repository already exists and is public.
        OSError: if the Hub cannot be reached or refuses the upload.
    """
    api = HfApi()
    # Not `upload_folder`, which commits large folders in parts.
    operations = [CommitOperationAdd(path.name, path) for path in list_files(folder)]
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise ValueError(f"{repo_id} is there already and public: nothing was uploaded.")
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        return api.create_commit(repo_id, operations, commit_message=commit_message, revision=revision)
    except httpx.HTTPError as error:
        raise OSError(str(error)) from error


def list_files(folder: str | os.PathLike) -> list[Path]:
    """The files of a folder, sorted by name."""
    return sorted(path for path in Path(folder).iterdir() if path.is_file())


__all__ = [
    "check_destination",
    "complete_copy",
    "draw_sample",
    "list_files",
    "problems_of_card",
    "push",
    "read_as_stranger",
]
