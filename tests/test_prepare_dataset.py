# SPDX-License-Identifier: Apache-2.0
"""scripts/prepare_dataset.py: a data set in, another form of it out."""

import io
import runpy
import subprocess
import sys
from pathlib import Path

import datasets
import lmdb
import pytest
from PIL import Image

from clip4str_hf import Clip4STRTokenizer
from clip4str_hf.data.words import load_words


SCRIPT = Path(__file__).parents[1] / "scripts" / "prepare_dataset.py"
WORDS = Path(__file__).with_name("data") / "words"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def prepare(cache, monkeypatch, capsys):
    """Runs the script in this process, as importing torch takes longer than all it does."""
    script = runpy.run_path(str(SCRIPT))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        status = script["main"]()
        return status, capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def source(tmp_path):
    """Two words, and one without an image."""
    image = io.BytesIO()
    Image.new("L", (8, 8)).save(image, "PNG")
    entries = {
        "num-samples": b"3",
        "label-000000001": "Café 24".encode(),
        "label-000000002": b"x",
        "label-000000003": b"y",
    }
    entries |= {"image-000000001": image.getvalue(), "image-000000002": image.getvalue()}
    (tmp_path / "lmdb").mkdir()
    with lmdb.open(str(tmp_path / "lmdb")) as environment, environment.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key.encode(), value)
    return tmp_path / "lmdb"


def read(folder):
    return [(row["image"]["bytes"], row["text"]) for row in load_words(folder)]


def test_lmdb_becomes_parquet_and_lmdb_again(prepare, source, tmp_path):
    assert prepare(source, tmp_path / "parquet") == (
        0,
        [
            "2 of 3 words kept, 0 of them with a changed label",
            "1 dropped, image missing: lmdb/data.mdb/image-000000003 'y'",
            f"2 words written to {tmp_path / 'parquet'}",
        ],
    )
    assert prepare(tmp_path / "parquet", tmp_path / "back", "--format", "lmdb")[0] == 0
    assert read(tmp_path / "back") == read(tmp_path / "parquet") == read(source)[:2]


def test_labels_are_cleaned_on_request(prepare, source, tmp_path):
    options = ["--format", "datasets", "--num-proc", 2, "--shard-size", "1MB"]
    status, lines = prepare(source, tmp_path / "cleaned", "--clean", *options)
    changed = "lmdb/data.mdb/image-000000001 'Café 24' as 'Cafe24'"
    assert (status, lines[0]) == (0, f"2 of 3 words kept, 1 of them with a changed label: {changed}")
    assert [text for _, text in read(tmp_path / "cleaned")] == ["Cafe24", "x"]
    Clip4STRTokenizer(charset="xyz").save_pretrained(tmp_path / "model")
    status, lines = prepare(WORDS, tmp_path / "cleaned", "--overwrite", "--clean", tmp_path / "model")
    assert status == 0
    assert lines[0].startswith("4 of 12 words kept, 4 of them with a changed label: ")
    assert lines[0].count(" as '") == 4
    assert sorted(text for _, text in read(tmp_path / "cleaned")) == ["x", "x", "y", "y"]


def test_what_goes_wrong_is_a_message(prepare, source, tmp_path):
    for arguments, message in (
        ([tmp_path / "nowhere", tmp_path / "out"], "no such file or folder"),
        ([source, source], "exists"),
        ([source, tmp_path / "out", "--shard-size", "much"], "much"),
        ([source, tmp_path / "out", "--split", "test"], r"has the splits \['train'\]"),
    ):
        with pytest.raises(SystemExit, match=f"cannot be turned into .*{message}"):
            prepare(*arguments)
    assert not (tmp_path / "out").exists()


def test_the_script_runs_from_the_shell(source, tmp_path):
    command = [sys.executable, str(SCRIPT), str(source), str(tmp_path / "out")]
    found = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, timeout=120)
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith(f"2 words written to {tmp_path / 'out'}\n")
