# SPDX-License-Identifier: Apache-2.0
"""scripts/evaluate.py: labelled words in, a table out."""

import csv
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lmdb
import pytest
from datasets import Dataset, DatasetDict, load_dataset
from huggingface_hub import ModelCard
from rapidfuzz.distance import Levenshtein

from clip4str_hf.metrics.model_index import CHARSET_DESCRIPTIONS


SCRIPT = Path(__file__).parents[1] / "scripts" / "evaluate.py"
WORDS = Path(__file__).with_name("data") / "words"
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
# What README says that the shipped reader reads.
READINGS = {
    name: (text, float(score))
    for name, text, score in re.findall(r"^tests/data/words/(\S+)\t(.+)\t(.+)$", README, re.M)
}


# Runs the script once for each list of arguments; to import what it needs takes longer than to read a few words.
RUNS = """
import contextlib, io, json, runpy, sys

def run(arguments):
    sys.argv = [SCRIPT, *arguments]
    streams = {name: io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for name in ("stdout", "stderr")}
    with contextlib.redirect_stdout(streams["stdout"]), contextlib.redirect_stderr(streams["stderr"]):
        try:
            runpy.run_path(SCRIPT, run_name="__main__")
        except SystemExit as end:
            code = end.code
            if isinstance(code, str):
                print(code, file=sys.stderr)
                code = 1
    return {"returncode": code, **{name: stream.buffer.getvalue().decode() for name, stream in streams.items()}}

SCRIPT, *runs = json.loads(sys.argv[1])
print(json.dumps([run(arguments) for arguments in runs]))
"""


def python(home, *arguments):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False, timeout=300, env=environment)


def evaluate_all(home, *runs):
    run = python(home, "-c", RUNS, json.dumps([str(SCRIPT), *([str(part) for part in parts] for parts in runs)]))
    assert run.returncode == 0, run.stderr
    return [SimpleNamespace(**result) for result in json.loads(run.stdout)]


def write_lmdb(folder, words):
    """The form of PARSeq's archives: numbers from 1, images as files are."""
    folder.mkdir(parents=True)
    entries = {b"num-samples": str(len(words)).encode()}
    for number, (image, label) in enumerate(words, 1):
        entries[b"image-%09d" % number], entries[b"label-%09d" % number] = image, label.encode()
    with lmdb.open(str(folder)) as environment, environment.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key, value)


def image(name):
    return (WORDS / name).read_bytes()


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory):
    """HOST with four words that count and WOST with one, in PARSeq's folders."""
    root = tmp_path_factory.mktemp("benchmarks") / "test"
    host = [
        (image("word_270.webp"), "exit"),  # the case is wrong
        (image("word_270.webp"), "Exits"),  # misread
        (image("word_264.webp"), "7 - 9 pm"),
        (image("word_275.webp")[:100], "CAN"),  # cannot be opened
        (image("word_2018.webp"), "%"),  # empty under 36
        (image("word_2018.webp"), "x" * 26),  # too long
        (image("word_2199.webp"), "IMÁX"),
    ]
    write_lmdb(root / "HOST", host)
    write_lmdb(root / "WOST", [(image("word_2000.webp"), "SEPHORAS")])
    (root / "unrelated").mkdir()
    return root


def test_a_folder_of_words_in_all_charsets(tmp_path):
    misreads, output = tmp_path / "misreads.tsv", tmp_path / "new" / "folder"
    arguments = ["--charset", 36, 62, 94, "--batch-size", 5, "--misreads", misreads, "--output", output]
    arguments += ["--card", tmp_path / "my-reader" / "README.md"]
    run = python(tmp_path / "home", SCRIPT, "--data", f"crops={WORDS}", *arguments)
    assert (run.returncode, run.stderr) == (0, "")
    labels = dict(csv.reader((WORDS / "metadata.csv").read_text(encoding="utf-8").splitlines()[1:]))
    wrong = {name for name, label in labels.items() if READINGS[name][0] != label}
    assert len(wrong) <= 3

    confidence = sum(score for _, score in READINGS.values()) / 12
    kept = {
        "36": lambda text: re.sub("[^0-9a-z]", "", text.lower()),
        "62": lambda text: re.sub("[^0-9a-zA-Z]", "", text),
        "94": lambda text: text,
    }
    accuracy, similarity = {}, {}
    for charset, keep in kept.items():
        pairs = [(keep(READINGS[name][0]), keep(label)) for name, label in labels.items()]
        accuracy[charset] = sum(read == label for read, label in pairs) / 12
        similarity[charset] = sum(Levenshtein.normalized_similarity(*pair) for pair in pairs) / 12
    result = json.loads((output / "results.json").read_text(encoding="utf-8"))
    assert list(result["sets"]["crops"]["charsets"]) == ["36", "62", "94"]
    for charset, found in result["sets"]["crops"]["charsets"].items():
        assert found == {
            "word_accuracy": pytest.approx(accuracy[charset]),
            "one_minus_ned": pytest.approx(similarity[charset]),
            "mean_confidence": pytest.approx(confidence, abs=1e-4),
            "words": 12,
            "unreadable": 0,
            "empty_labels": 0,
            "long_labels": 0,
        }
    assert (result["groups"], result["notes"]) == ({}, [])
    options = {"splits": {}, "refine_iters": 1, "visual_only": False, "dtype": "float32"}
    assert result["options"] == {"sources": {"crops": str(WORDS)}, **options}
    card = ModelCard.load(tmp_path / "my-reader" / "README.md")
    assert card.data.model_name == "my-reader"
    assert [(figure.dataset_name, figure.metric_name, figure.metric_value) for figure in card.data.eval_results][
        ::2
    ] == [
        ("crops (12 words)", f"Word accuracy in %, {name}", round(100 * accuracy[charset], 2))
        for charset, name in list(CHARSET_DESCRIPTIONS.items())[:3]
    ]
    assert run.stdout == (output / "results.md").read_text(encoding="utf-8")
    cells = [cell.strip() for cell in run.stdout.splitlines()[4].split("|")[1:-1]]
    assert cells[0] == "crops"
    for charset, start in (("36", 1), ("62", 5), ("94", 9)):
        expected = [
            "12",
            f"{100 * accuracy[charset]:.2f}",
            f"{100 * similarity[charset]:.2f}",
            f"{100 * confidence:.2f}",
        ]
        assert cells[start : start + 4] == expected

    rows = list(csv.DictReader(misreads.read_text(encoding="utf-8").splitlines(), dialect="excel-tab"))
    assert {Path(row["image"]).name for row in rows} == wrong
    for row in rows:
        name = Path(row["image"]).name
        assert (row["set"], row["label"], row["charsets"]) == ("crops", labels[name], "36,62,94")
        assert (row["text"], float(row["score"])) == (READINGS[name][0], pytest.approx(READINGS[name][1], abs=1e-4))
    assert not list(tmp_path.glob("*.part"))


@pytest.fixture(scope="module")
def runs(benchmarks, tmp_path_factory):
    """The benchmarks, a data set of two splits, and what cannot be evaluated, with the message for it."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "empty").mkdir()
    refused = {
        (): "give words with --data or --benchmarks",
        ("--data", WORDS, "--batch-size", 0): "--batch-size 0 must be at least 1",
        ("--data", WORDS, "--misreads", "misreads.txt"): "must end in .tsv or .jsonl",
        ("--data", folder / "nowhere"): "nowhere",
        ("--data", WORDS, "--split", "validation"): "validation",
        ("--data", WORDS, "--image-column", "crop"): "no column 'crop'",
        ("--data", WORDS, "--text-column", "word"): "no column 'word'",
        ("--data", "words="): "words= names no words",
        ("--benchmarks", benchmarks, "--split", "test"): "--split is of --data",
        ("--benchmarks", folder / "empty"): "holds none of the folders IIIT5k",
        ("--benchmarks", benchmarks, "--data", f"HOST={WORDS}"): "Two sets are named HOST",
        ("--data", WORDS, "--model", folder / "no model"): "no model",
    }
    outputs = ["--misreads", folder / "misreads.jsonl", "--output", folder / "output", "--plots", folder / "plots"]
    read = ["--benchmarks", benchmarks, "--charset", 36, 94, "--device", "cpu", *outputs]
    words = load_dataset("imagefolder", data_dir=str(WORDS), split="train", cache_dir=str(folder / "cache"))
    DatasetDict(train=words, test=words.select(range(5))).save_to_disk(folder / "words")
    renamed = words.rename_columns({"image": "crop", "text": "word"})
    # Without a split at all.
    Dataset.from_list([words[0], words[1]], features=words.features).save_to_disk(folder / "plain")
    DatasetDict(train=renamed, validation=renamed.select(range(3))).save_to_disk(folder / "others")
    columns = ["--image-column", "crop", "--text-column", "word"]
    splits = [
        ["--data", folder / "words", folder / "plain", "--output", folder / "test"],
        ["--data", f"mine={folder / 'words'}", "--split", "train"],
    ]
    # The split and the columns are not those of the benchmarks.
    validation = ["--split", "validation", *columns, "--benchmarks", benchmarks, "--output", folder / "validation"]
    splits += [["--data", folder / "others", *validation]]
    refusals = (["--misreads", folder / "none.tsv", *parts] for parts in refused)
    *found, test, train, others, read = evaluate_all(folder / "home", *refusals, *splits, read)
    refused = dict(zip(refused.values(), found, strict=True))
    return SimpleNamespace(folder=folder, refused=refused, splits=[test, train], others=others, benchmarks=read)


def test_benchmarks_in_lmdb_with_group_means(runs):
    run = runs.benchmarks
    # The image that cannot be opened is named, and the rest is evaluated.
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith("HOST, ") and "image-000000004" in line
    result = json.loads((runs.folder / "output" / "results.json").read_text(encoding="utf-8"))
    assert len(result["sets"]) == 13
    assert [name for name, found in result["sets"].items() if found] == ["HOST", "WOST"]
    host, wost = (result["sets"][name]["charsets"] for name in ("HOST", "WOST"))

    # Under 36 Exit, 7-9pm and IMAX are right, Exit is one of five characters short of Exits.
    counts = {"words": 4, "unreadable": 1, "empty_labels": 1, "long_labels": 1}
    assert counts.items() <= host["36"].items()
    assert host["36"]["word_accuracy"] == pytest.approx(3 / 4)
    assert host["36"]["one_minus_ned"] == pytest.approx(1 - 1 / 5 / 4)
    # Under 94 the case of exit is wrong, and 50% is read for %.
    counts = {"words": 5, "unreadable": 1, "empty_labels": 0, "long_labels": 1}
    assert counts.items() <= host["94"].items()
    assert host["94"]["word_accuracy"] == pytest.approx(2 / 5)
    assert host["94"]["one_minus_ned"] == pytest.approx(1 - (1 / 4 + 1 / 5 + 2 / 3) / 5)
    assert wost["36"]["word_accuracy"] == 0
    assert wost["36"]["one_minus_ned"] == pytest.approx(7 / 8)

    occluded = result["groups"]["occluded"]
    assert (occluded["sets"], occluded["missing"]) == (["HOST", "WOST"], [])
    mean = occluded["charsets"]["36"]
    assert mean["words"] == 5
    assert mean["word_accuracy"] == pytest.approx(3 / 5)
    assert mean["one_minus_ned"] == pytest.approx(1 - (1 / 5 + 1 / 8) / 5)
    assert mean["mean_over_sets"]["word_accuracy"] == pytest.approx(3 / 8)
    assert result["groups"]["regular"]["charsets"] is None

    lines = run.stdout.splitlines()
    assert sum(line.startswith("| IC1") for line in lines) == 4
    assert "| IC13_857 | - | - | - | - | - | - | - | - |" in lines
    assert any(line.startswith("| **occluded**: HOST WOST | 5 | 60.00 |") for line in lines)
    assert "- HOST has 5 words (charset 36), not the 2416 that are published." in lines
    assert "- HOST (charset 94): not counted are 1 unreadable images, 1 too long labels." in lines

    misreads = (runs.folder / "misreads.jsonl").read_text(encoding="utf-8")
    found = [json.loads(line) for line in misreads.splitlines()]
    assert [(row["set"], row["row"], row["label"], row["text"], row["charsets"]) for row in found] == [
        ("HOST", 0, "exit", "Exit", ["94"]),
        ("HOST", 1, "Exits", "Exit", ["36", "94"]),
        ("HOST", 4, "%", "50%", ["94"]),
        ("WOST", 0, "SEPHORAS", "SEPHORA", ["36", "94"]),
    ]


def test_plots_show_the_words_that_count(runs):
    names = {path.name for path in (runs.folder / "plots").iterdir()}
    assert names == {f"{name}-{charset}.png" for name in ("HOST", "WOST") for charset in (36, 94)}
    result = json.loads((runs.folder / "output" / "results.json").read_text(encoding="utf-8"))
    analysis = result["sets"]["HOST"]["charsets"]["36"]["analysis"]
    # exit, 79pm and imax are right, exit is read for exits.
    assert analysis["accuracy_by_length"] == [
        {"length": 4, "words": 3, "correct": 3},
        {"length": 5, "words": 1, "correct": 0},
    ]
    assert analysis["confusions"] == [{"label": "s", "prediction": "", "count": 1}]
    assert sum(row["words"] for row in analysis["reliability"]) == 4
    assert 0 < analysis["expected_calibration_error"] < 0.5


def test_what_cannot_be_evaluated_is_said_before_anything_is_read(runs):
    for message, run in runs.refused.items():
        assert run.returncode in (1, 2)
        assert run.stdout == ""
        assert message in run.stderr
        assert "Traceback" not in run.stderr
    assert not list(runs.folder.glob("none*"))


def test_the_split_is_test_unless_another_is_named(runs):
    assert [run.stdout.splitlines()[4].split(" | ")[:2] for run in runs.splits] == [["| words", "5"], ["| mine", "12"]]


def test_columns_and_splits_are_those_of_the_data_and_not_of_the_benchmarks(runs):
    words = dict(re.findall(r"^\| (\S+) \| (\d+) ", runs.others.stdout, re.M))
    assert words["others"] == "3" and {"HOST", "WOST"} <= words.keys()


@pytest.mark.parametrize("split, name", [("test", "words"), ("validation", "others")])
def test_results_tell_the_split_of_words_that_have_several(runs, split, name):
    results = json.loads((runs.folder / split / "results.json").read_text(encoding="utf-8"))
    assert results["options"]["splits"] == {name: split}


def test_a_set_of_which_nothing_counts_is_a_failure(tmp_path):
    write_lmdb(tmp_path / "set", [(image("word_270.webp"), "!!!")])
    run = python(tmp_path / "home", SCRIPT, "--data", f"marks={tmp_path / 'set'}", "--card", tmp_path / "README.md")
    assert run.returncode == 1
    assert run.stderr == "marks: no word was counted under charset 36\n"
    assert "metrics" not in ModelCard.load(tmp_path / "README.md").data.to_dict()


def test_the_misreads_of_an_evaluation_that_breaks_off_are_kept(tmp_path, capsys):
    misreads_file = runpy.run_path(str(SCRIPT))["misreads_file"]
    with pytest.raises(KeyboardInterrupt), misreads_file(tmp_path / "misreads.jsonl") as list_misread:
        list_misread({"label": "a"})
        raise KeyboardInterrupt
    assert (tmp_path / "misreads.jsonl.part").read_text() == '{"label": "a"}\n'
    assert not (tmp_path / "misreads.jsonl").exists() and "misreads.jsonl.part" in capsys.readouterr().err
