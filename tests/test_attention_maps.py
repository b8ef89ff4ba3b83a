# SPDX-License-Identifier: Apache-2.0
"""Maps of where each character was read from, and pictures of them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny_model
from PIL import Image, ImageDraw, ImageFont

from clip4str_hf import Clip4STRForSceneTextRecognition, Clip4STRProcessor, default_checkpoint
from clip4str_hf.visualization import GLOW, attention_strip, overlay_attentions


DATA = Path(__file__).with_name("data")
FONTS = sorted((DATA / "fonts").glob("*-latin-*.woff2"))
WORDS = [word for word in (DATA / "words.txt").read_text().split() if 4 <= len(word) <= 7]


@pytest.fixture(scope="module")
def reader():
    model = Clip4STRForSceneTextRecognition.from_pretrained(default_checkpoint(), attn_implementation="eager")
    return model, Clip4STRProcessor.from_pretrained(default_checkpoint())


@pytest.fixture(scope="module")
def grid(reader):
    """Rows and columns of patches."""
    config = reader[0].config
    return tuple(side // config.vision_config.patch_size for side in config.image_size)


@pytest.fixture(scope="module")
def shipped(reader):
    """What the shipped reader gives for three crops."""
    model, processor = reader
    images = [Image.open(DATA / "words" / f"word_{number}.webp") for number in (2083, 264, 275)]
    inputs = processor(images=images, return_tensors="pt")
    outputs = model.generate(**inputs, return_dict_in_generate=True, output_attentions=True)
    return SimpleNamespace(images=images, outputs=outputs)


def draw(word: str, font: Path) -> tuple[Image.Image, torch.Tensor]:
    """A clean picture of a word, and where the middle of each character is, 0 to 1 from the left."""
    font, margin = ImageFont.truetype(font, 40), 8
    left, top, right, bottom = font.getbbox(word)
    image = Image.new("RGB", (right - left + 2 * margin, bottom - top + 2 * margin), "white")
    ImageDraw.Draw(image).text((margin - left, margin - top), word, "black", font)
    ends = torch.tensor([font.getlength(word[:index]) for index in range(len(word) + 1)]) + margin - left
    return image, (ends[1:] + ends[:-1]) / 2 / image.width


@pytest.mark.parametrize("branch", ["cross_modal", "visual"])
@pytest.mark.parametrize("font", FONTS, ids=lambda font: font.name.split("-")[0])
def test_maps_follow_the_characters_from_left_to_right(reader, grid, font, branch):
    model, processor = reader
    images, middles = zip(*(draw(word, font) for word in WORDS))
    inputs = processor(images=images, return_tensors="pt")
    outputs = model.generate(**inputs, return_dict_in_generate=True, output_attentions=True)
    logits = outputs.visual_logits if branch == "visual" else outputs.logits
    texts = [word["text"] for word in processor.post_process_text_recognition(logits)]
    assert sum(text == word for text, word in zip(texts, WORDS)) >= len(WORDS) - 1
    maps = processor.post_process_attentions(outputs, branch)
    columns = (torch.arange(grid[1]) + 0.5) / grid[1]
    distances = []
    for word, text, of_word, middle in zip(WORDS, texts, maps, middles):
        if text == word:
            weights = of_word.sum(1)
            centres = (weights * columns).sum(-1) / weights.sum(-1)
            assert (centres.diff() > 0).all(), word
            distances.append((centres - middle).abs())
    assert torch.cat(distances).mean() < 0.025 and torch.cat(distances).max() < 2 / grid[1]


def test_maps_are_the_weights_of_the_patches(reader, grid, shipped):
    _, processor = reader
    rows, columns = grid
    outputs = shipped.outputs
    texts = [word["text"] for word in processor.post_process_text_recognition(outputs)]
    maps = processor.post_process_attentions(outputs)
    assert [tuple(of_word.shape) for of_word in maps] == [(len(text), rows, columns) for text in texts]
    assert all(of_word.dtype == torch.float32 for of_word in maps)
    # By their definition: the mean over the heads, row after row of patches behind the class token.
    weights = outputs.cross_attentions[-1]
    assert weights.shape[-1] == 1 + rows * columns + 27
    for index, of_word in enumerate(maps):
        for row, column in ((0, 0), (0, columns - 1), (2, 7), (rows - 1, columns - 1)):
            expected = weights[index, :, : len(of_word), 1 + columns * row + column].mean(0)
            torch.testing.assert_close(of_word[:, row, column], expected)
        assert (of_word.sum((1, 2)) <= 1).all()


def test_maps_of_the_visual_branch_are_of_its_own_text():
    # Random weights: the branches read texts of different lengths; all but the patches is left out.
    model = tiny_model(seed=3, image_size=(16, 32))
    model.set_attn_implementation("eager")
    processor = Clip4STRProcessor.from_config(model.config)
    pixels = torch.randn(16, 3, 16, 32, generator=torch.Generator().manual_seed(0))
    for options in ({}, {"refine_iters": 0}, {"autoregressive": False}):
        outputs = model.generate(pixels, return_dict_in_generate=True, output_attentions=True, **options)
        both = {"cross_modal": outputs.logits, "visual": outputs.visual_logits}
        lengths = {}
        for branch, logits in both.items():
            lengths[branch] = [len(word["text"]) for word in processor.post_process_text_recognition(logits)]
            maps = processor.post_process_attentions(outputs, branch)
            assert [tuple(of_word.shape) for of_word in maps] == [(length, 2, 4) for length in lengths[branch]]
        assert lengths["cross_modal"] != lengths["visual"]


def test_maps_are_resized_to_images_on_request(reader, grid, shipped):
    _, processor = reader
    height, width = grid
    sizes = [image.size[::-1] for image in shipped.images]
    # One patch for each position: of several peaks of a word's own maps another may be the highest when resized.
    weights = torch.zeros_like(shipped.outputs.cross_attentions[-1])
    patches = torch.arange(weights.shape[2]) * 7 % (height * width)
    weights[:, :, torch.arange(weights.shape[2]), 1 + patches] = 1
    outputs = SimpleNamespace(**{**shipped.outputs, "cross_attentions": (weights,)})
    for of_pixels, size in zip(processor.post_process_attentions(outputs, target_sizes=sizes), sizes):
        assert len(of_pixels) > 2 and of_pixels.shape[1:] == size
        rows, columns = patches[: len(of_pixels)] // width, patches[: len(of_pixels)] % width
        place = of_pixels.flatten(1).argmax(-1)
        assert ((place // size[1] / size[0] * height - rows - 0.5).abs() <= 1).all()
        assert ((place % size[1] / size[1] * width - columns - 0.5).abs() <= 1).all()


def test_an_empty_text_has_no_maps(reader, grid, shipped):
    _, processor = reader
    outputs = shipped.outputs
    logits = outputs.logits.clone()
    logits[1, 0, 0] = 1e4  # the end comes first
    empty = SimpleNamespace(**{**outputs, "logits": logits})
    assert processor.post_process_attentions(empty)[1].shape == (0, *grid)
    sizes = [(8, 9)] * 3
    assert processor.post_process_attentions(empty, target_sizes=sizes)[1].shape == (0, 8, 9)


def test_what_has_no_maps_is_said(reader, shipped):
    model, processor = reader
    height, width = model.config.image_size
    with pytest.raises(ValueError, match="branch='text' must be 'cross_modal' or 'visual'"):
        processor.post_process_attentions(shipped.outputs, "text")
    with pytest.raises(ValueError, match="2 target_sizes and 3 images"):
        processor.post_process_attentions(shipped.outputs, target_sizes=[(32, 128)] * 2)
    pixels = processor(images=shipped.images[0], return_tensors="pt").pixel_values
    plain = model.generate(pixels, return_dict_in_generate=True)
    with pytest.raises(ValueError, match=r"no cross_attentions: ask for output_attentions=True"):
        processor.post_process_attentions(plain)
    visual = model.generate(pixels, return_dict_in_generate=True, output_attentions=True, visual_only=True)
    with pytest.raises(ValueError, match=r"not for visual_only=True"):
        processor.post_process_attentions(visual)
    assert len(processor.post_process_attentions(visual, "visual")) == 1
    other = SimpleNamespace(**{**shipped.outputs, "image_features": torch.zeros(3, 8, 2)})
    with pytest.raises(ValueError, match=rf"7 patches do not make up images of {height} x {width} pixels"):
        processor.post_process_attentions(other)


# Pictures


def test_the_glow_lies_where_the_weight_is():
    image = Image.new("RGB", (64, 16), (10, 200, 30))
    maps = np.zeros((2, 4, 16))
    maps[0, :2, 12:], maps[1, 2:, :4] = 0.001, 0.9  # however small the weights are
    pictures = overlay_attentions(image, torch.tensor(maps))
    assert [(picture.mode, picture.size) for picture in pictures] == [("RGB", (64, 16))] * 2
    pixels = [np.asarray(picture).astype(int) for picture in pictures]
    (grey,) = set(image.convert("L").tobytes())
    for of_picture, inside, outside in ((pixels[0], (2, 60), (12, 4)), (pixels[1], (12, 4), (2, 60))):
        assert (of_picture[outside] == grey).all()
        assert of_picture[inside][0] - grey > 0.7 * (GLOW[0] - grey)
    assert image.getpixel((60, 2)) == (10, 200, 30)


def test_a_strip_holds_all_characters_one_below_the_other(shipped, reader):
    _, processor = reader
    image, maps = shipped.images[0], processor.post_process_attentions(shipped.outputs)[0]
    strip, pictures = attention_strip(image, maps), overlay_attentions(image, maps)
    assert strip.width == image.width
    step = (strip.height - image.height) / (len(maps) - 1)
    assert step > image.height
    for index, picture in enumerate(pictures):
        top = round(index * step)
        assert strip.crop((0, top, image.width, top + image.height)).tobytes() == picture.tobytes()


def test_pictures_of_other_things_are_refused():
    image = Image.new("RGBA", (64, 16))
    assert overlay_attentions(image, np.zeros((0, 4, 16))) == []
    with pytest.raises(ValueError, match="the text is empty"):
        attention_strip(image, np.zeros((0, 4, 16)))
    with pytest.raises(ValueError, match=r"\(characters, rows, columns\), got \(4, 16\)"):
        overlay_attentions(image, np.zeros((4, 16)))
