# SPDX-License-Identifier: Apache-2.0
"""Confidences that are as often right as they say."""

import csv
import json
import math
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_config, tiny_model
from datasets import DatasetDict

from clip4str_hf import Clip4STRForSceneTextRecognition, Clip4STRProcessor, default_checkpoint
from clip4str_hf.data.words import load_words
from clip4str_hf.generation_clip4str import character_probabilities
from clip4str_hf.metrics.calibration import (
    WordLogits,
    _right_characters,
    calibration_errors,
    fit_temperature,
    read_for_calibration,
    write_temperature,
)
from clip4str_hf.metrics.evaluation import evaluate_words
from clip4str_hf.reading import load_reader, read_images


WORDS = Path(__file__).parent / "data" / "words"
SCRIPT = Path(__file__).parent.parent / "scripts" / "calibrate.py"


def sampled_words(count: int, sharpening: float) -> list[WordLogits]:
    """Words whose characters are right as often as softmax says before the logits are multiplied."""
    generator = torch.Generator().manual_seed(0)
    words = []
    for _ in range(count):
        logits = 2.5 * torch.randn(4, 12, generator=generator)
        drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
        right = (drawn == logits.argmax(-1)).tolist()
        words.append(WordLogits(sharpening * logits, all(right), right[:-1]))
    return words


@pytest.mark.parametrize("sharpening", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again_and_calibrates(sharpening):
    words = sampled_words(3000, sharpening)
    temperature = fit_temperature(words[::2])
    assert temperature == pytest.approx(sharpening, rel=0.15)
    before, after = calibration_errors(words[1::2]), calibration_errors(words[1::2], temperature)
    assert after["words"] < 0.04 and after["characters"] < 0.04
    if sharpening != 1.0:
        assert before["words"] > 0.1 and before["characters"] > 0.1


def test_a_temperature_needs_words_of_both_kinds():
    words = sampled_words(50, 1.0)
    for right in (True, False):
        with pytest.raises(ValueError, match="words of both kinds are needed"):
            fit_temperature([word for word in words if word.is_correct == right])


@pytest.mark.parametrize("visual_only", [False, True])
def test_the_temperature_scales_confidences_and_changes_no_text(visual_only):
    model, pixels = tiny_model(), torch.randn(4, 3, 32, 32)
    options = {"return_dict_in_generate": True, "output_scores": True, "visual_only": visual_only}
    plain = model.generate(pixels, **options)
    model.config.confidence_temperature = 2.5
    scaled = model.generate(pixels, **options)
    assert scaled.sequences.equal(plain.sequences)
    torch.testing.assert_close(scaled.logits, plain.logits / 2.5)
    assert scaled.visual_logits.equal(plain.visual_logits)
    assert torch.stack(scaled.scores, 1).equal(scaled.logits)
    assert (scaled.confidence < plain.confidence).all()
    words = Clip4STRProcessor.from_config(model.config).post_process_text_recognition(scaled)
    torch.testing.assert_close(torch.tensor([word["score"] for word in words]), scaled.confidence)
    labels = torch.tensor([[95, 1, 2, 0]] * 4)
    torch.manual_seed(0)
    loss = model(pixels, labels=labels).loss
    model.config.confidence_temperature = 1.0
    torch.manual_seed(0)
    assert model(pixels, labels=labels).loss.equal(loss)


def test_the_temperature_is_saved_and_checked(tmp_path):
    tiny_model(confidence_temperature=1.25).save_pretrained(tmp_path)
    assert Clip4STRForSceneTextRecognition.from_pretrained(tmp_path).config.confidence_temperature == 1.25
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="confidence_temperature="):
            tiny_config(confidence_temperature=temperature)


def test_words_are_read_before_the_temperature_and_compared_by_the_protocol():
    model = Clip4STRForSceneTextRecognition.from_pretrained(default_checkpoint())
    processor = Clip4STRProcessor.from_pretrained(default_checkpoint())
    paths = [str(WORDS / "word_2083.webp"), str(WORDS / "word_2166.webp")]
    texts = {"word_2083.webp": "Pharmacy", "word_2166.webp": "spiritz", "word_270.webp": "", "absent.webp": "a"}
    rows = [{"image": {"path": str(WORDS / name), "bytes": None}, "text": text} for name, text in texts.items()]
    problems = []
    plain = list(read_for_calibration(rows, model, processor, report=problems.append))
    assert [word.is_correct for word in plain] == [True, False]
    assert [word.characters for word in plain] == [[True] * 8, [False] * 7]
    assert [(problem["row"], problem["image"]) for problem in problems] == [(3, str(WORDS / "absent.webp"))]
    model.config.confidence_temperature = 3.0
    again = list(read_for_calibration(rows, model, processor, charset_size=36))
    assert again[1].characters == [True] * 6 + [False]
    for one, other in zip(plain, again):
        torch.testing.assert_close(one.logits, other.logits)
    pixels = processor(images=paths, return_tensors="pt").pixel_values
    read = model.generate(pixels, return_dict_in_generate=True)
    calibrated = [character_probabilities(word.logits / 3.0)[1].prod() for word in plain]
    torch.testing.assert_close(torch.stack(calibrated), read.confidence)


def test_labels_count_as_in_an_evaluation():
    model = Clip4STRForSceneTextRecognition.from_pretrained(default_checkpoint())
    processor = Clip4STRProcessor.from_pretrained(default_checkpoint())
    image = {"path": str(WORDS / "word_2083.webp"), "bytes": None}
    rows = [{"image": image, "text": text} for text in ("Pharmacy", "a" * 26, "", None, "!?", "PHARMACY.")]
    counted = list(read_for_calibration(rows, model, processor, charset_size=36))
    assert len(counted) == 2 == evaluate_words(rows, model, processor)["36"]["words"]


def test_exact_labels_are_cleaned_up_as_for_the_training():
    model = Clip4STRForSceneTextRecognition.from_pretrained(default_checkpoint())
    processor = Clip4STRProcessor.from_pretrained(default_checkpoint())
    image = {"path": str(WORDS / "word_2083.webp"), "bytes": None}
    rows = [{"image": image, "text": text} for text in ("Phar macy", "Phärmacy", "PHARMACY")]
    assert [word.is_correct for word in read_for_calibration(rows, model, processor)] == [True, True, False]


def test_characters_that_are_not_compared_are_not_wrong():
    logits = torch.zeros(6, 95)
    word = WordLogits(logits, True, _right_characters("Exit!", "exit", 36))
    assert word.characters == [True] * 4 + [None]
    assert calibration_errors([word])["characters"] == pytest.approx(1 - 1 / 95)


def test_script(tmp_path, capsys):
    reader = tmp_path / "reader"
    shutil.copytree(default_checkpoint(), reader)
    before = {path.name: path.read_bytes() for path in reader.iterdir()}
    words = tmp_path / "words"
    shutil.copytree(WORDS, words)
    with open(words / "metadata.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows[::4] + rows[1::4]:
        row["text"] = "other"

    def write_labels(rows):
        with open(words / "metadata.csv", "w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)

    write_labels(rows)

    def calibrate(*arguments):
        argv, sys.argv = sys.argv, list(map(str, [SCRIPT, "--model", reader, "--data", *arguments, "--device", "cpu"]))
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as end:
            return end.code
        finally:
            sys.argv = argv

    assert calibrate(words) == 0
    printed = capsys.readouterr().out
    assert "fitted to 6 words" in printed and "of 6 others" in printed and "words: " in printed
    assert "not counted" not in printed
    assert {path.name: path.read_bytes() for path in reader.iterdir()} == before
    assert calibrate(words, "--write") == 0
    after = {path.name: path.read_bytes() for path in reader.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {"config.json"}
    config, old = json.loads(after["config.json"]), json.loads(before["config.json"])
    assert config.pop("confidence_temperature") > 1 and config == {
        name: value for name, value in old.items() if name != "confidence_temperature"
    }
    assert f"confidence_temperature {json.loads(after['config.json'])['confidence_temperature']:.4f}" in printed
    readings = read_images(sorted(WORDS.glob("*.webp")), *load_reader(reader))
    write_labels([{"file_name": Path(word["file"]).name, "text": word["text"]} for word in readings])
    assert "words are right" in calibrate(words)
    write_labels([*rows, {"file_name": "absent.webp", "text": "a"}, {"file_name": "word_270.webp", "text": ""}])
    assert calibrate(words) == 1
    output = capsys.readouterr()
    assert "absent.webp: " in output.err and "not counted: 1 words with empty or too long labels" in output.out
    write_labels(rows)
    # Words that decide about the reader's confidence are not those that it is tested on.
    changed = load_words(words)
    DatasetDict(test=changed, validation=changed.select(range(8))).save_to_disk(tmp_path / "splits")
    assert calibrate(tmp_path / "splits") == 0
    assert "fitted to 4 words" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no folder with a config.json"):
        write_temperature(words, 1.0)
