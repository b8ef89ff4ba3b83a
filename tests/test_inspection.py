# SPDX-License-Identifier: Apache-2.0
"""How a word came to be read, step by step."""

import copy
from pathlib import Path

import pytest
import torch
from PIL import Image

from clip4str_hf import Clip4STRForSceneTextRecognition, Clip4STRProcessor, default_checkpoint
from clip4str_hf.inspection import crop_box, describe_changes, read_in_steps


WORDS = Path(__file__).with_name("data") / "words"


@pytest.fixture(scope="module")
def reader():
    model = Clip4STRForSceneTextRecognition.from_pretrained(default_checkpoint(), attn_implementation="eager")
    return model, Clip4STRProcessor.from_pretrained(default_checkpoint())


@pytest.mark.parametrize("name", ["word_275.webp", "word_264.webp"])
def test_each_step_is_what_generate_reads_with_as_many_refinements(reader, name):
    model, processor = reader
    steps, maps = read_in_steps(WORDS / name, model, processor, refine_iters=2)
    pixels = processor(images=WORDS / name, return_tensors="pt").pixel_values
    assert len(steps) == 3
    for done, step in enumerate(steps):
        options = {"refine_iters": done, "return_dict_in_generate": True}
        (cross_modal,) = processor.post_process_text_recognition(model.generate(pixels, **options))
        visual = model.generate(pixels, visual_only=True, **options)
        assert step.cross_modal["text"] == cross_modal["text"]
        assert step.cross_modal["score"] == pytest.approx(cross_modal["score"], rel=1e-4)
        assert step.cross_modal["char_scores"] == pytest.approx(cross_modal["char_scores"], rel=1e-4)
        assert step.visual["text"] == processor.batch_decode(visual.sequences)[0]
        assert step.visual["score"] == pytest.approx(visual.confidence.item(), rel=1e-4)
    assert steps[0].cross_modal["score"] != steps[1].cross_modal["score"]
    rows, columns = (side // model.config.vision_config.patch_size for side in model.config.image_size)
    assert maps.shape == (len(steps[-1].cross_modal["text"]), rows, columns)


def test_maps_of_a_word_that_was_turned_are_turned_back(reader):
    model, processor = reader
    aligning = copy.deepcopy(processor)
    aligning.image_processor.do_align_long_axis = True
    with Image.open(WORDS / "word_2083.webp") as image:
        upright, tall = image.convert("RGB"), image.convert("RGB").transpose(Image.Transpose.ROTATE_270)
    steps, maps = read_in_steps(upright, model, aligning)
    turned_steps, turned_maps = read_in_steps(tall, model, aligning)
    assert turned_steps[-1].cross_modal["text"] == steps[-1].cross_modal["text"] == "Pharmacy"
    torch.testing.assert_close(turned_maps, maps.rot90(-1, (1, 2)))
    pixels = aligning(images=tall, return_tensors="pt").pixel_values
    outputs = model.generate(pixels, return_dict_in_generate=True, output_attentions=True)
    (of_pixels,) = aligning.post_process_attentions(outputs, target_sizes=[(tall.height, tall.width)])
    heights = of_pixels.sum(2) @ torch.arange(float(tall.height)) / of_pixels.sum((1, 2))
    assert of_pixels.shape[1:] == (tall.height, tall.width) and (heights.diff() > 0).all()  # downwards


def test_the_cross_modal_branch_is_shown_even_of_a_reader_that_goes_without(reader):
    model, processor = reader
    model.generation_config.visual_only = True
    try:
        (step,), maps = read_in_steps(WORDS / "word_270.webp", model, processor, refine_iters=0)
    finally:
        model.generation_config.visual_only = False
    assert step.cross_modal["text"] == "Exit" and step.cross_modal["score"] != step.visual["score"]
    assert len(maps) == 4


def test_what_cannot_be_shown_is_said(reader):
    model, processor = reader
    image = Image.open(WORDS / "word_270.webp")
    with pytest.raises(ValueError, match="refine_iters=-1 must be at least 0"):
        read_in_steps(image, model, processor, refine_iters=-1)
    with pytest.raises(ValueError, match="nowhere.png"):
        read_in_steps("nowhere.png", model, processor)
    plain = Clip4STRForSceneTextRecognition.from_pretrained(default_checkpoint())
    with pytest.raises(ValueError, match="eager"):
        read_in_steps(image, plain, processor)


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ("Pharmacy", "Pharmacy", []),
        ("Pharnacy", "Pharmacy", ["n → m"]),
        ("Pharnacys", "Pharmacy", ["n → m", "- s"]),
        ("EXI", "EXIT", ["+ T"]),
        ("", "ab", ["+ a", "+ b"]),
    ],
)
def test_changes_turn_one_text_into_the_other(before, after, changes):
    assert describe_changes(before, after) == changes


def test_a_box_between_corners_holds_both_and_stays_in_the_image():
    size = (100, 50)
    for corners in (((10, 5), (29, 24)), ((29, 24), (10, 5)), ((10, 24), (29, 5)), ((29.9, 5.2), (10.4, 24.8))):
        assert crop_box(*corners, size) == (10, 5, 30, 25)
    assert crop_box((-5, 40), (200, 60), size) == (0, 40, 100, 50)
    assert crop_box((0, 0), (2, 2), size) == (0, 0, 3, 3)
    for corners in (((10, 10), (10, 10)), ((10, 10), (11, 40)), ((10, 10), (40, 11)), ((120, 10), (150, 40))):
        with pytest.raises(ValueError, match="holds no word: it must be at least 3 pixels wide and high"):
            crop_box(*corners, size)
