# SPDX-License-Identifier: Apache-2.0
"""The protocol of the scene text benchmarks: figures worked out by hand."""

import json
import os
import subprocess
import sys
import unicodedata
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from clip4str_hf import (
    Clip4STRForSceneTextRecognition,
    Clip4STRProcessor,
    Clip4STRTokenizer,
    DataCollatorForTextRecognition,
    default_checkpoint,
)
from clip4str_hf.metrics.benchmarks import BENCHMARKS, GROUPS, find_benchmarks, group_means
from clip4str_hf.metrics.evaluation import evaluate_words, make_report, to_markdown
from clip4str_hf.metrics.protocol import WordTally, metric_script, normalize, score_words, word_metrics


WORDS = Path(__file__).with_name("data") / "words"


@pytest.fixture(scope="module")
def reader():
    parts = Clip4STRForSceneTextRecognition, Clip4STRProcessor
    return [part.from_pretrained(default_checkpoint()) for part in parts]


@pytest.mark.parametrize(
    ("text", "under_36", "under_62", "under_94"),
    [
        ("Exit", "exit", "Exit", "Exit"),
        ("7-9 pm", "79pm", "79pm", "7-9pm"),
        ("50%", "50", "50", "50%"),
        ("Café\tNo.5", "cafeno5", "CafeNo5", "CafeNo.5"),
        ("ＳＴＯＰ²", "stop2", "STOP2", "STOP2"),
        ("Straße", "strae", "Strae", "Strae"),
        ("字", "", "", ""),
        ("?!", "", "", "?!"),
        ("", "", "", ""),
    ],
)
def test_each_charset_keeps_its_own_characters(text, under_36, under_62, under_94):
    assert [normalize(text, size) for size in (36, 62, 94)] == [under_36, under_62, under_94]
    assert normalize(text, None) == text == normalize(unicodedata.normalize("NFD", text), None)


def test_figures_worked_out_by_hand():
    # Under 36: right; one of four characters wrong; one of 5 missing; nothing read; too much read (2 of 5 characters).
    predictions = ["EXIT", "taxl", "hell", "", "abcde"]
    references = ["Exit!", "taxi", "Hello", "no", "abc"]
    found = score_words(predictions, references, [1.0, 0.5, 0.5, 0.25, 0.25])
    assert found == {
        "word_accuracy": pytest.approx(1 / 5),
        "one_minus_ned": pytest.approx(1 - (0 + 1 / 4 + 1 / 5 + 1 + 2 / 5) / 5),
        "mean_confidence": pytest.approx(0.5),
        "words": 5,
        "empty_labels": 0,
        "long_labels": 0,
    }
    # Under 94 EXIT differs from Exit! in four of five characters, hell from Hello in two of five.
    found = score_words(predictions, references, charset_size=94)
    assert "mean_confidence" not in found
    assert found["word_accuracy"] == 0
    assert found["one_minus_ned"] == pytest.approx(1 - (4 / 5 + 1 / 4 + 2 / 5 + 1 + 2 / 5) / 5)


def test_labels_that_do_not_count():
    # 26 characters are one too many, also where only 24 of them are compared; white space is none.
    long, just_right, spaced = "a" * 24 + "--", "a" * 24 + "-", " ".join("a" * 25)
    references = ["?!", "", "字", long, just_right, spaced]
    found = score_words(["x"] * 6, references)
    assert (found["words"], found["empty_labels"], found["long_labels"]) == (2, 3, 1)
    found = score_words(["x"] * 6, references, charset_size=94, max_label_length=26)
    assert (found["words"], found["empty_labels"], found["long_labels"]) == (4, 2, 0)
    # As they are: other scripts count, and so does white space.
    found = score_words(["x", "", "字", long, just_right, spaced], references, charset_size=None)
    assert (found["words"], found["empty_labels"], found["long_labels"]) == (3, 1, 2)
    assert found["word_accuracy"] == pytest.approx(2 / 3)


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match=r"charset_size=37 must be one of \[36, 62, 94, None\]"):
        score_words(["a"], ["a"], charset_size=37)
    with pytest.raises(ValueError, match="2 predictions, 1 references and 2 scores"):
        score_words(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="2 predictions, 2 references and 1 scores"):
        score_words(["a", "b"], ["a", "b"], [0.5])
    with pytest.raises(ValueError, match="None of the 2 references counts under charset_size=36: 1 are empty, 1 lon"):
        score_words(["a", "b"], ["字", "b" * 26])
    with pytest.raises(ValueError, match="1 predictions are None"):
        score_words(["a", None], ["a", "b"])


def test_a_tally_counts_as_it_goes():
    tally = WordTally(62)
    assert [tally.add(*word) for word in (("Exit", "Exit!", 0.8), ("EXIT", "Exit", 0.4), ("a", "?"))] == [0, 1, 0]
    assert [tally.add(None, label) for label in ("word", "?", None)] == [0, 0, 0]
    assert tally.results() == {
        "word_accuracy": 0.5,
        "one_minus_ned": pytest.approx(1 - 3 / 8),
        "mean_confidence": pytest.approx(0.6),
        "words": 2,
        "unreadable": 1,
        "empty_labels": 3,
        "long_labels": 0,
    }
    assert WordTally().results()["word_accuracy"] is None


def test_the_evaluate_library_loads_the_metric_offline(tmp_path):
    script = """
import sys, json, socket
def refuse(*arguments, **options):
    raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = refuse
import evaluate
metric = evaluate.load(sys.argv[1])
texts = {"predictions": ["EXIT", "taxl"], "references": ["Exit!", "taxi"]}
found = [metric.compute(**texts), metric.compute(**texts, charset_size=94, scores=[0.5, 1.0])]
for prediction, reference in zip(*texts.values()):
    metric.add_batch(predictions=[prediction], references=[reference])
print(json.dumps([*found, metric.compute(charset_size=62)]))
"""
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", script, metric_script()]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    first, second, third = json.loads(run.stdout)
    assert first == score_words(["EXIT", "taxl"], ["Exit!", "taxi"])
    assert second == score_words(["EXIT", "taxl"], ["Exit!", "taxi"], [0.5, 1.0], 94)
    assert third == score_words(["EXIT", "taxl"], ["Exit!", "taxi"], charset_size=62)
    assert first["word_accuracy"] == 0.5 > third["word_accuracy"]


def test_trainer_metrics_are_those_of_the_ids():
    tokenizer = Clip4STRTokenizer()
    processor = SimpleNamespace(tokenizer=tokenizer, batch_decode=tokenizer.batch_decode)
    # As gathered from several processes: rows of other lengths, filled up with -100.
    ids = tokenizer(["EXIT", "taxl"], return_tensors="np").input_ids
    predictions = np.pad(ids, ((0, 0), (0, 3)), constant_values=-100)
    labels = np.array([[95, 41, 34, 19, 30, 0], [95, 30, 11, 34, 0, -100]])  # Exit, tax
    found = word_metrics(processor)(SimpleNamespace(predictions=predictions, label_ids=labels))
    assert found == {"word_accuracy": 0.5, "one_minus_ned": pytest.approx(1 - (1 / 4) / 2)}
    in_batches = SimpleNamespace(predictions=[predictions[:1], predictions[1:]], label_ids=[labels[:1], labels[1:]])
    assert word_metrics(processor)(in_batches) == found
    one_by_one = word_metrics(processor)
    parts = [SimpleNamespace(predictions=predictions[i : i + 1], label_ids=labels[i : i + 1]) for i in (0, 1)]
    for _ in range(2):
        assert one_by_one(parts[0], compute_result=False) == {}
        assert one_by_one(parts[1], compute_result=True) == found
    found = word_metrics(processor, charset_size=94)(SimpleNamespace(predictions=predictions, label_ids=labels))
    assert found == {"word_accuracy": 0, "one_minus_ned": pytest.approx(1 - (3 / 4 + 1 / 4) / 2)}

    with pytest.raises(ValueError, match="charset_size=10"):
        word_metrics(processor, charset_size=10)
    with pytest.raises(ValueError, match="predict_with_generate=True"):
        word_metrics(processor)(SimpleNamespace(predictions=(np.zeros((2, 26, 95)), None), label_ids=labels))


def read_with_two_wrong_labels(reader):
    """The words, what is read in them, and that as their labels but for two."""
    model, processor = reader
    words = load_dataset("imagefolder", data_dir=str(WORDS), split="train")
    outputs = model.generate(**processor(images=words["image"], return_tensors="pt"), return_dict_in_generate=True)
    read = processor.post_process_text_recognition(outputs)
    labels = [reading["text"] for reading in read]
    labels[3], labels[6] = "Exits", "SEPHORAS"
    return words, read, labels


def test_a_trainer_takes_the_metrics(reader, tmp_path):
    model, processor = reader
    words, _, labels = read_with_two_wrong_labels(reader)
    arguments = Seq2SeqTrainingArguments(
        tmp_path,
        predict_with_generate=True,
        remove_unused_columns=False,
        per_device_eval_batch_size=5,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Seq2SeqTrainer(
        model,
        arguments,
        DataCollatorForTextRecognition(processor),
        eval_dataset=words.remove_columns("text").add_column("text", labels),
        compute_metrics=word_metrics(processor, charset_size=94),
    )
    found = trainer.evaluate()
    assert found["eval_word_accuracy"] == pytest.approx(10 / 12)
    assert found["eval_one_minus_ned"] == pytest.approx(1 - (1 / 5 + 1 / 8) / 12)


def figures(words, accuracy):
    return {"36": {"words": words, "word_accuracy": accuracy, "one_minus_ned": 0.5, "mean_confidence": 0.25}}


def test_group_means_are_weighted_by_words_and_never_of_a_part():
    sets = dict.fromkeys(BENCHMARKS) | {"HOST": figures(30, 0.5), "WOST": figures(10, 1.0), "SVT": figures(5, 1.0)}
    means = group_means(sets)
    assert list(means) == list(GROUPS)
    assert means["occluded"] == {
        "sets": ["HOST", "WOST"],
        "missing": [],
        "charsets": {
            "36": {
                "word_accuracy": pytest.approx(25 / 40),
                "one_minus_ned": 0.5,
                "mean_confidence": 0.25,
                "words": 40,
                "mean_over_sets": {"word_accuracy": 0.75, "one_minus_ned": 0.5, "mean_confidence": 0.25},
            }
        },
    }
    assert means["regular"] == {
        "sets": ["IIIT5k", "SVT", "IC13_1015"],
        "missing": ["IIIT5k", "IC13_1015"],
        "charsets": None,
    }
    assert group_means({"HOST": figures(30, 0.5), "mine": figures(1, 0.5)}) == {}


def test_no_group_holds_two_versions_of_a_set_but_the_originals_nine():
    assert len(BENCHMARKS) == 13
    assert {name for names in GROUPS.values() for name in names} == set(BENCHMARKS)
    for group, names in GROUPS.items():
        assert not {"IC13_857", "IC13_1015"} <= set(names)
        assert group == "clip4str" or not {"IC15_1811", "IC15_2077"} <= set(names)
    sizes = {group: sum(BENCHMARKS[name] for name in names) for group, names in GROUPS.items()}
    assert (sizes["common_subsets"], sizes["common_whole"]) == (7248, 7672)


def test_benchmarks_are_found_by_name(tmp_path):
    for name in ("IIIT5K", "cute80", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "SVT").write_text("no folder")
    found = find_benchmarks(tmp_path)
    assert list(found) == list(BENCHMARKS)
    assert {name: path.name for name, path in found.items() if path} == {"IIIT5k": "IIIT5K", "CUTE80": "cute80"}
    with pytest.raises(ValueError, match="other holds none of the folders IIIT5k, SVT, "):
        find_benchmarks(tmp_path / "other")
    with pytest.raises(ValueError, match="missing is no folder"):
        find_benchmarks(tmp_path / "missing")


def test_words_are_read_once_for_all_charsets_wherever_they_come_from(reader, monkeypatch):
    words, read, labels = read_with_two_wrong_labels(reader)
    rows = [{"image": image, "text": label} for image, label in zip(words["image"], labels)]
    # An image as bytes, as in a parquet file, and three that cannot be opened.
    encoded, problems = BytesIO(), []
    rows[0]["image"].save(encoded, "PNG")
    rows[0]["image"] = {"bytes": encoded.getvalue(), "path": None}
    rows.append({"image": {"bytes": encoded.getvalue()[:60], "path": "cut.png"}, "text": "cut"})
    rows.append({"image": {"bytes": b"text", "path": None}, "text": None})
    rows.append({"image": None, "text": "none"})
    rows.append({"image": words["image"][0], "text": None})
    images_read = 0
    generate = reader[0].generate

    def counted(pixel_values, **options):
        nonlocal images_read
        images_read += len(pixel_values)
        return generate(pixel_values, **options)

    monkeypatch.setattr(reader[0], "generate", counted)
    found = evaluate_words(iter(rows), *reader, (36, 94), batch_size=5, report=problems.append)
    assert images_read == 13
    for charset in ("36", "94"):
        assert found[charset]["word_accuracy"] == pytest.approx(10 / 12)
        assert found[charset]["one_minus_ned"] == pytest.approx(1 - (1 / 5 + 1 / 8) / 12)
        assert found[charset]["mean_confidence"] == pytest.approx(np.mean([reading["score"] for reading in read]))
    counts = {"words": 12, "unreadable": 2, "empty_labels": 2, "long_labels": 0}
    assert counts.items() <= found["94"].items()
    misread, unreadable = problems[:-4], problems[-4:]
    assert [(row["row"], row["label"], row["text"]) for row in misread] == [
        (3, "Exits", "Exit"),
        (6, "SEPHORAS", "SEPHORA"),
    ]
    assert [row["charsets"] for row in misread] == [["36", "94"]] * 2
    assert [(row["row"], row["image"]) for row in unreadable] == [(12, "cut.png"), (13, None), (14, None), (15, None)]
    assert [row["error"] for row in unreadable[1:]] == [
        "this is no image",
        "there is no image",
        "the label is missing or no UTF-8",
    ]

    # Options of generate go through; labels may be as long as the reader's own.
    options = []
    monkeypatch.setattr(
        reader[0], "generate", lambda pixels, **given: options.append(given) or generate(pixels, **given)
    )
    monkeypatch.setattr(reader[0].config, "max_label_length", 30)
    rows = [{"image": Image.new("RGB", (8, 8)), "text": "a" * 30}]
    assert evaluate_words(rows, *reader, refine_iters=3)["36"]["words"] == 1
    assert options == [{"return_dict_in_generate": True, "refine_iters": 3}]


def test_the_report_says_what_was_not_counted():
    tally = {"unreadable": 1, "empty_labels": 0, "long_labels": 2}
    sets = {name: None for name in BENCHMARKS}
    sets |= {"HOST": {"36": figures(30, 0.5)["36"] | tally}, "a|b": {"36": figures(7, 1 / 3)["36"] | tally}}
    report = make_report("my-reader", {"refine_iters": 1, "sources": {}, "splits": {"HOST": "test"}}, sets)
    assert json.loads(json.dumps(report)) == report
    assert report["sets"]["SVT"] is None
    assert (report["sets"]["HOST"]["published_words"], report["sets"]["a|b"]["published_words"]) == (2416, None)
    assert report["notes"] == [
        "HOST has 31 words (charset 36), not the 2416 that are published.",
        "HOST (charset 36): not counted are 1 unreadable images, 2 too long labels.",
        "a|b (charset 36): not counted are 1 unreadable images, 2 too long labels.",
    ]
    lines = to_markdown(report).splitlines()
    assert lines[:4] == [
        "my-reader (refine_iters 1). Figures in %, means of groups weighted by words.",
        "",
        "| set | words (36) | word accuracy (36) | 1 - NED (36) | confidence (36) |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    assert "| SVT | - | - | - | - |" in lines
    assert "| HOST | 30 | 50.00 | 50.00 | 25.00 |" in lines
    assert "| a\\|b | 7 | 33.33 | 50.00 | 25.00 |" in lines
    assert "| **occluded**: HOST WOST | - | - | - | - |" in lines
