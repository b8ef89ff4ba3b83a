# SPDX-License-Identifier: Apache-2.0
"""Image and label in, text and scores out."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, CLIPImageProcessorPil

from clip4str_hf import Clip4STRImageProcessor, Clip4STRProcessor, Clip4STRTokenizer


SETTINGS = [f"ar_refine{refinements}{cross}" for refinements in (0, 1, 2) for cross in ("", "_single_pass_cross")]


@pytest.fixture(scope="module")
def processor():
    return Clip4STRProcessor(Clip4STRImageProcessor(size=32), Clip4STRTokenizer())


@pytest.fixture(scope="module")
def words():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (11, 30 + i, 3), dtype=np.uint8)) for i in range(3)]


def logits_of(texts, positions=26, classes=95, scale=4.0):
    """Logits whose arg-max spells the ids in `texts`; what follows is any character."""
    logits = torch.randn(len(texts), positions, classes, generator=torch.Generator().manual_seed(0))
    for row, ids in zip(logits, texts, strict=True):
        row[range(len(ids)), ids] += scale * 3
    return logits


def test_images_and_labels_become_the_inputs_of_the_model(processor, words):
    inputs = processor(words, ["Exit", "a", "[E]"], return_tensors="pt")
    assert sorted(inputs) == sorted(processor.model_input_names) == ["labels", "pixel_values"]
    assert (inputs.pixel_values.shape, inputs.pixel_values.dtype) == ((3, 3, 32, 32), torch.float32)
    assert inputs.labels.dtype == torch.int64
    assert inputs.labels.tolist() == [[95, 41, 34, 19, 30, 0], [95, 11, 0, 96, 96, 96], [95, 85, 41, 87, 0, 96]]
    assert processor.batch_decode(inputs.labels) == ["Exit", "a", "[E]"]
    assert processor.decode(inputs.labels[0]) == "Exit"


def test_images_or_labels_alone(processor, words):
    assert list(processor(words, return_tensors="pt")) == ["pixel_values"]
    assert list(processor(text="a", return_tensors="pt")) == ["labels"]
    assert processor(text="a", return_tensors="pt").labels.shape == (1, 3)
    assert processor(words[0], "a", return_tensors="np")["labels"].shape == (1, 3)
    assert processor(images=words[0], text="a")["labels"] == [[95, 11, 0]]
    with pytest.raises(ValueError, match="at least one input"):
        processor()


def test_arguments_reach_the_tokenizer_and_the_image_processor(processor, words):
    inputs = processor(words[:1], "É", clean_labels=True, padding="max_length", size=16, return_tensors="pt")
    assert inputs.labels.shape == (1, 27)
    assert inputs.pixel_values.shape == (1, 3, 16, 16)
    nested = processor(words[:1], "É", text_kwargs={"clean_labels": True}, images_kwargs={"size": 16})
    assert nested["labels"] == [[95, 41, 0]]


def test_a_label_the_tokenizer_refuses_is_refused(processor, words):
    with pytest.raises(ValueError, match="Label '' is empty"):
        processor(words[:1], "")
    with pytest.raises(ValueError, match="'é'"):
        processor(words[:1], ["é"])
    with pytest.raises(ValueError, match="2 images and 3 labels"):
        processor(words[:2], ["a", "b", "c"])
    with pytest.raises(TypeError, match="Image 1 is of type int"):
        processor([words[0], 3])


def test_files_are_read_by_the_processor_as_by_its_image_processor(processor, tmp_path):
    clear = Image.new("RGBA", (8, 5), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    white = processor(Image.new("RGB", (8, 5), "white"), return_tensors="pt").pixel_values
    for given in (clear, str(tmp_path / "clear.png"), tmp_path / "clear.png", [[tmp_path / "clear.png"]]):
        torch.testing.assert_close(processor(given, return_tensors="pt").pixel_values, white, rtol=0, atol=0)
    grey = np.full((8, 8), 200, np.uint8)
    assert processor(grey, return_tensors="pt").pixel_values.shape == (1, 3, 32, 32)
    grey_first = processor(grey[None], input_data_format="channels_first", return_tensors="pt").pixel_values
    assert torch.equal(grey_first, processor(grey, return_tensors="pt").pixel_values)


def test_a_batch_of_a_dataset_is_mapped(processor, words):
    datasets = pytest.importorskip("datasets")
    labels = ["a", "bc", "def"]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    data = datasets.Dataset.from_dict({"image": words, "text": labels}, features=features)
    transformed = data.with_transform(lambda batch: processor(batch["image"], batch["text"], return_tensors="pt"))
    assert transformed[:2]["labels"].tolist() == processor(text=labels[:2]).labels
    expected = processor(words, return_tensors="pt").pixel_values
    assert torch.equal(transformed[:]["pixel_values"], expected)
    # Columns are sequences, not lists.
    inputs = processor(data["image"], data["text"], return_tensors="pt")
    assert torch.equal(inputs.pixel_values, expected)
    assert inputs.labels.tolist() == processor(text=labels).labels


@pytest.mark.parametrize("load", [Clip4STRProcessor.from_pretrained, AutoProcessor.from_pretrained])
@pytest.mark.parametrize("charset", ["αβγ", "한국어 ", "abc"])
def test_saving_and_loading_keeps_everything(tmp_path, words, load, charset):
    saved = Clip4STRProcessor(
        Clip4STRImageProcessor(size=(16, 48), image_mean=[0.5] * 3, image_std=[0.5] * 3),
        Clip4STRTokenizer(charset=charset, max_label_length=9, clean_labels=True),
    )
    saved.save_pretrained(tmp_path)
    names = ["processor_config.json", "tokenizer_config.json", "vocab.json"]
    assert sorted(path.name for path in tmp_path.glob("*.json")) == names
    assert (tmp_path / "processing_clip4str.py").exists()  # it is saved with its code
    loaded = load(tmp_path)
    assert type(loaded) is Clip4STRProcessor
    assert type(loaded.image_processor) is type(AutoImageProcessor.from_pretrained(tmp_path)) is Clip4STRImageProcessor
    assert type(loaded.tokenizer) is type(AutoTokenizer.from_pretrained(tmp_path)) is Clip4STRTokenizer
    first, again = (each(words, [charset] * 3, padding="max_length", return_tensors="pt") for each in (saved, loaded))
    assert first.pixel_values.shape == (3, 3, 16, 48)
    assert first.labels.shape == (3, 11)
    for name in ("pixel_values", "labels"):
        assert torch.equal(first[name], again[name])
    loaded.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / names[0]).read_text()) == json.loads((tmp_path / "again" / names[0]).read_text())


def test_a_clips_processor_gives_mean_deviation_and_size(tmp_path, words):
    clip = CLIPImageProcessorPil(
        size={"shortest_edge": 40}, crop_size=32, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
    )
    clip.save_pretrained(tmp_path)
    for given in (clip, SimpleNamespace(image_processor=clip), tmp_path, str(tmp_path)):
        processor = Clip4STRProcessor.from_clip_processor(given, charset="αβγ", max_label_length=4, clean_labels=True)
        image_processor = processor.image_processor
        assert dict(image_processor.size) == {"height": 32, "width": 32}
        assert list(image_processor.image_mean) == [0.1, 0.2, 0.3]
        assert list(image_processor.image_std) == [0.4, 0.5, 0.6]
        assert not image_processor.do_center_crop
        assert processor(words[0], return_tensors="pt").pixel_values.shape == (1, 3, 32, 32)
        tokenizer = processor.tokenizer
        assert (tokenizer.charset, tokenizer.max_label_length, tokenizer.clean_labels) == ("αβγ", 4, True)


def test_the_size_of_a_clips_processor_can_be_replaced():
    clip = CLIPImageProcessorPil()
    for image_size, expected in ((64, (64, 64)), ((32, 128), (32, 128)), (None, (224, 224))):
        size = Clip4STRProcessor.from_clip_processor(clip, image_size=image_size).image_processor.size
        assert (size.height, size.width) == expected
    squashed = CLIPImageProcessorPil(size={"height": 48, "width": 96}, do_center_crop=False)
    assert Clip4STRProcessor.from_clip_processor(squashed).image_processor.size.width == 96
    uncropped = CLIPImageProcessorPil(size={"shortest_edge": 56}, do_center_crop=False)
    assert Clip4STRProcessor.from_clip_processor(uncropped).image_processor.size.width == 56


@pytest.mark.parametrize("setting", SETTINGS)
def test_texts_and_confidences_are_those_of_the_reference(processor, parity, setting):
    fields = parity.expected["settings"][setting].items()
    expected = {name: [values[row] for row in parity.with_logits] for name, values in fields}
    logits = parity.outputs[f"{setting}.logits"]
    for outputs in (logits, SimpleNamespace(logits=logits)):
        results = processor.post_process_text_recognition(outputs)
        assert [result["text"] for result in results] == expected["text"]
        assert [result["score"] for result in results] == pytest.approx(expected["confidence"], rel=1e-5, abs=1e-9)
        for result, probabilities in zip(results, expected["char_probs"], strict=True):
            # The reference lists the probability of [E] with those of the characters.
            assert len(result["char_scores"]) == len(result["text"])
            assert result["char_scores"] == pytest.approx(probabilities[: len(result["text"])], rel=1e-5, abs=1e-9)


def test_a_text_ends_at_its_first_end_whatever_follows(processor):
    logits = logits_of([[11, 12, 0, 13, 0], [0, 5], [41, 34, 19, 30, 0]])
    results = processor.post_process_text_recognition(logits)
    assert [result["text"] for result in results] == ["ab", "", "Exit"]
    best = logits.softmax(-1).amax(-1)
    for row, result in zip(best, results, strict=True):
        length = len(result["text"])
        assert result["char_scores"] == pytest.approx(row[:length].tolist())
        assert result["score"] == pytest.approx(math.prod(row[: length + 1].tolist()))
        assert isinstance(result["score"], float)


def test_without_an_end_all_positions_are_the_text(processor):
    logits = logits_of([[11] * 26, [12] * 26])
    results = processor.post_process_text_recognition(logits)
    assert [result["text"] for result in results] == ["a" * 26, "b" * 26]
    assert len(results[0]["char_scores"]) == 26
    assert results[0]["score"] == pytest.approx(math.prod(results[0]["char_scores"]))


def test_half_precision_is_read_in_single_precision(processor):
    logits = logits_of([[11, 0]]).bfloat16()
    assert processor.post_process_text_recognition(logits) == processor.post_process_text_recognition(logits.float())


def test_arrays_and_tuples_are_read_as_tensors_are(processor):
    logits = torch.randn(2, 4, 95, generator=torch.Generator().manual_seed(0))
    read = processor.post_process_text_recognition(logits)
    assert processor.post_process_text_recognition(logits.numpy()) == read
    assert processor.post_process_text_recognition((logits, None)) == read


def test_fewer_positions_and_no_image_are_fine(processor):
    assert processor.post_process_text_recognition(logits_of([[11]], positions=1))[0]["text"] == "a"
    assert processor.post_process_text_recognition(torch.zeros(0, 26, 95)) == []


def test_other_charsets_are_read():
    for charset in ("αβγ ", "가나다", [chr(0xAC00 + i) for i in range(11172)]):
        processor = Clip4STRProcessor(Clip4STRImageProcessor(), Clip4STRTokenizer(charset=charset))
        last = len(charset)
        logits = logits_of([[last, 1, last, 0]], positions=5, classes=last + 1, scale=8.0)
        text = processor.post_process_text_recognition(logits)[0]["text"]
        assert text == charset[-1] + charset[0] + charset[-1]


def test_logits_of_another_charset_are_refused(processor):
    with pytest.raises(ValueError, match=r"\(batch, positions, 95\), got \(1, 26, 37\)"):
        processor.post_process_text_recognition(torch.zeros(1, 26, 37))
    with pytest.raises(ValueError, match=r"got \(26, 95\)"):
        processor.post_process_text_recognition(torch.zeros(26, 95))
