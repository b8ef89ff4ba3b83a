# SPDX-License-Identifier: Apache-2.0
"""`pipeline("image-to-text")` as users write it."""

import csv
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_model
from datasets import Dataset, Image
from PIL import Image as PILImage
from transformers import CLIPConfig, CLIPModel, GenerationConfig, ImageTextToTextPipeline, pipeline
from transformers.pipelines.pt_utils import KeyDataset

import clip4str_hf
from clip4str_hf import Clip4STRForSceneTextRecognition, Clip4STRPipeline, Clip4STRProcessor, default_checkpoint
from clip4str_hf.reading import load_reader


WORDS = Path(__file__).parent / "data" / "words"
FILES = sorted(str(path) for path in WORDS.glob("*.webp"))
FIRST = "SEPHORA"


@pytest.fixture(scope="module")
def reader():
    return pipeline("image-to-text", model=default_checkpoint())


@pytest.fixture(scope="module")
def readings(reader):
    return [reader(file) for file in FILES]


def test_the_shipped_checkpoint_reads_most_of_the_examples(readings):
    with open(WORDS / "metadata.csv", encoding="utf-8") as file:
        labels = {row["file_name"]: row["text"] for row in csv.DictReader(file)}
    right = [reading[0]["generated_text"] == labels[Path(file).name] for file, reading in zip(FILES, readings)]
    assert sum(right) >= 9, [(file, reading) for file, reading in zip(FILES, readings)]


def test_an_image_gives_one_text_with_its_score(reader, readings):
    assert isinstance(reader, Clip4STRPipeline)
    assert [set(reading[0]) for reading in readings] == [{"generated_text", "score"}] * len(FILES)
    assert all(len(reading) == 1 and 0 < reading[0]["score"] <= 1 for reading in readings)


def assert_same(readings, expected):
    assert [r[0]["generated_text"] for r in readings] == [e[0]["generated_text"] for e in expected]
    np.testing.assert_allclose([r[0]["score"] for r in readings], [e[0]["score"] for e in expected], rtol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_lists_and_batches_read_the_same(reader, readings, batch_size):
    assert_same(reader(FILES, batch_size=batch_size), readings)


def test_pil_images_read_the_same(reader, readings):
    assert_same(reader([PILImage.open(file) for file in FILES]), readings)
    assert_same([reader(PILImage.open(FILES[0]))], readings[:1])


def test_a_dataset_column_is_read_in_batches(reader, readings):
    dataset = Dataset.from_dict({"image": FILES}).cast_column("image", Image())
    assert_same(list(reader(KeyDataset(dataset, "image"), batch_size=4)), readings)
    assert_same(list(reader(dataset["image"], batch_size=5)), readings)


def test_each_image_has_an_answer_of_its_own(reader, readings):
    assert reader([]) == []
    assert_same(reader(tuple(FILES[:3]), batch_size=2), readings[:3])
    photos = [np.asarray(PILImage.open(file).convert("RGB").resize((128, 32))) for file in FILES[:3]]
    assert_same(reader(np.stack(photos), batch_size=2), [reader(photo) for photo in photos])
    for batch_size in (1, 2):
        with pytest.raises(ValueError, match="An input holds 2 images: give one image each, in a flat list"):
            reader([FILES[:2], FILES[2:3]], batch_size=batch_size)


def test_iterables_of_other_kinds_are_read_one_by_one(reader, readings):
    rows = Dataset.from_dict({"image": FILES[:2]}).cast_column("image", Image())
    for inputs in (map(str, FILES[:2]), iter(FILES[:2]), rows, rows.to_iterable_dataset()["image"]):
        assert_same(list(reader(inputs)), readings[:2])


def test_a_generator_is_read(reader, readings):
    assert_same(list(reader(file for file in FILES[:3])), readings[:3])


def test_a_model_object_needs_no_processor(readings):
    model = Clip4STRForSceneTextRecognition.from_pretrained(default_checkpoint())
    assert_same([pipeline("image-to-text", model=model)(FILES[0])], readings[:1])


def test_a_model_object_that_was_never_saved_needs_no_processor():
    assert "generated_text" in pipeline("image-to-text", model=tiny_model())(FILES[0])[0]


def test_a_processor_that_is_given_is_used(readings):
    processor = Clip4STRProcessor.from_pretrained(default_checkpoint())
    reader = pipeline("image-to-text", model=default_checkpoint(), processor=processor)
    assert reader.processor is processor
    assert_same([reader(FILES[0])], readings[:1])


def test_the_parts_of_a_processor_may_be_given_alone():
    parts = Clip4STRProcessor.from_pretrained(default_checkpoint(), image_mean=[0.5] * 3)
    reader = pipeline("image-to-text", model=default_checkpoint(), image_processor=parts.image_processor)
    assert reader.processor.image_processor is parts.image_processor
    reader = pipeline("image-to-text", model=default_checkpoint(), tokenizer=parts.tokenizer)
    assert reader.processor.tokenizer is parts.tokenizer


def test_the_parts_of_a_processor_may_be_folders(readings):
    folder = str(default_checkpoint())
    for part in ("tokenizer", "image_processor"):
        assert_same(pipeline("image-to-text", model=folder, **{part: folder})(FILES[:2]), readings[:2])


def test_images_that_are_given_twice_are_refused(reader):
    with pytest.raises(ValueError, match="Images are given twice"):
        reader(FILES[0], images=FILES[1])


def test_a_processor_that_does_not_fit_is_refused():
    wrong = Clip4STRProcessor.from_config(tiny_model().config)
    model = Clip4STRForSceneTextRecognition.from_pretrained(default_checkpoint())
    with pytest.raises(ValueError, match=rf"does not fit this model's .*{re.escape(str(model.config.image_size))}"):
        pipeline("image-to-text", model=model, processor=wrong)


def test_images_of_another_size_are_treated_as_before(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    Clip4STRProcessor.from_config(model.config, image_mean=[0.5] * 3, clean_labels=True).save_pretrained(tmp_path)
    wider = Clip4STRForSceneTextRecognition.from_pretrained(tmp_path, image_size=[32, 96])
    images = pipeline("image-to-text", model=wider).processor.image_processor
    assert images.size == {"height": 32, "width": 96} and list(images.image_mean) == [0.5] * 3
    model, processor = load_reader(tmp_path, image_size=[32, 96])
    assert processor.image_processor.size == {"height": 32, "width": 96} and processor.tokenizer.clean_labels


def test_a_reader_of_longer_texts_is_saved_with_its_processor(tmp_path):
    model = Clip4STRForSceneTextRecognition.from_pretrained(default_checkpoint())
    model.resize_charset(max_label_length=40)
    pipeline("image-to-text", model=model).save_pretrained(tmp_path)
    assert Clip4STRProcessor.from_pretrained(tmp_path)(text="a" * 40)["labels"]


def test_a_generation_configuration_is_taken_without_a_warning(reader, caplog):
    given = GenerationConfig(max_new_tokens=3)
    with caplog.at_level("WARNING"), warnings.catch_warnings(action="error"):
        (reading,) = reader(FILES[0], generation_config=given)
    assert len(reading["generated_text"]) == 3 and not given.return_dict_in_generate
    assert not caplog.records


def test_a_generation_configuration_of_a_call_replaces_what_the_pipeline_was_made_with():
    reader = pipeline("image-to-text", model=default_checkpoint(), max_new_tokens=2)
    assert len(reader(FILES[0])[0]["generated_text"]) == 2
    assert len(reader(FILES[0], refine_iters=0)[0]["generated_text"]) == 2
    assert len(reader(FILES[0], generation_config=GenerationConfig(max_new_tokens=3))[0]["generated_text"]) == 3


def test_a_lexicon_of_the_pipeline_stays_beside_a_generation_configuration_of_a_call():
    options = {"prefix_allowed_tokens_fn": lambda index, ids: [11, 0]}
    reader = pipeline("image-to-text", model=default_checkpoint(), **options)
    (reading,) = reader(FILES[0], generation_config=GenerationConfig(max_new_tokens=3))
    assert set(reading["generated_text"]) <= {"a"}


def test_the_parts_of_a_processor_are_enough_for_a_model_without_one(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    parts = Clip4STRProcessor.from_config(model.config)
    reader = pipeline(
        "image-to-text",
        model=Clip4STRForSceneTextRecognition.from_pretrained(tmp_path),
        tokenizer=parts.tokenizer,
        image_processor=parts.image_processor,
    )
    assert reader.processor.tokenizer is parts.tokenizer


def test_local_files_only_is_of_the_loading(readings):
    reader = pipeline("image-to-text", model=default_checkpoint(), local_files_only=True)
    assert_same([reader(FILES[0])], readings[:1])


def test_a_reader_whose_characters_were_changed_reads_them():
    model = Clip4STRForSceneTextRecognition.from_pretrained(default_checkpoint())
    model.resize_charset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    reader = pipeline("image-to-text", model=model)
    assert reader.processor.tokenizer.charset == model.config.charset
    assert reader(FILES[0])[0]["generated_text"].isupper()


def test_a_saved_pipeline_is_loaded_whole(reader, readings, tmp_path):
    reader.save_pretrained(tmp_path)
    for task in ("image-to-text", "image-text-to-text"):
        assert_same([pipeline(task, model=str(tmp_path))(FILES[0])], readings[:1])


def test_a_pipeline_in_half_precision_is_saved_without_traces_of_its_loading(tmp_path):
    reader = pipeline("image-to-text", model=default_checkpoint(), dtype=torch.bfloat16)
    reader.save_pretrained(tmp_path)
    names = [Path(default_checkpoint()) / "tokenizer_config.json", tmp_path / "tokenizer_config.json"]
    given, saved = (json.loads(name.read_text()) for name in names)
    assert {name: value for name, value in saved.items() if name != "auto_map"} == given
    assert pipeline("image-to-text", model=str(tmp_path)).model.dtype == torch.bfloat16


def test_image_text_to_text_takes_an_image_with_no_text_or_an_empty_one(readings):
    reader = pipeline("image-text-to-text", model=default_checkpoint())
    calls = [
        reader(FILES[0]),
        reader(FILES[0], text=""),
        reader(images=FILES[0], text=""),
        reader({"images": FILES[0], "text": ""}),
    ]
    assert_same(calls, readings[:1] * 4)
    assert_same(reader(images=FILES[:2], text=["", ""]), readings[:2])
    with pytest.raises(ValueError, match="takes no prompt, got text='What is this"):
        reader(FILES[0], text="What is this?")


def test_arguments_of_generate_pass_through(reader):
    assert len(reader(FILES[0], max_new_tokens=3)[0]["generated_text"]) <= 3
    digits = reader(FILES[0], prefix_allowed_tokens_fn=lambda index, ids: [0, *range(1, 11)])
    assert digits[0]["generated_text"].isdigit() or digits[0]["generated_text"] == ""
    visual = pipeline("image-to-text", model=default_checkpoint(), visual_only=True, refine_iters=0)
    assert visual(FILES[0])[0]["generated_text"] == FIRST
    with pytest.raises(ValueError, match="num_beams=4 does not apply"):
        reader(FILES[0], num_beams=4)


def test_an_unreadable_image_is_named(reader, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.png"):
        reader([FILES[0], str(broken)])
    with pytest.raises(ValueError, match="An image is needed"):
        reader()


def test_other_models_keep_their_pipeline():
    clip = CLIPModel(CLIPConfig(text_config=SMALL, vision_config=SMALL | {"image_size": 32, "patch_size": 16}))
    processor = Clip4STRProcessor.from_pretrained(default_checkpoint())
    for task in ("image-text-to-text", "image-to-text"):
        theirs = pipeline(task, model=clip, processor=processor)
        assert type(theirs) is ImageTextToTextPipeline and theirs.processor is processor
    with pytest.raises(ValueError, match="Impossible to guess which processor"):
        pipeline("image-text-to-text", model=clip)


SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize("first", ["import clip4str_hf", "from transformers import pipeline"])
def test_the_call_works_literally_whichever_import_comes_first_and_says_nothing(first):
    second = "from transformers import pipeline" if "clip4str" in first else "import clip4str_hf"
    code = f"""
{first}
{second}
print(pipeline("image-to-text", model=clip4str_hf.default_checkpoint())({FILES[0]!r})[0]["generated_text"])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [FIRST]
    assert "Logging error" not in run.stderr and "has been removed" not in run.stderr


def test_the_default_checkpoint_is_small_and_safe():
    folder = Path(default_checkpoint())
    assert folder.is_relative_to(Path(clip4str_hf.__file__).parent)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 40_000_000
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
