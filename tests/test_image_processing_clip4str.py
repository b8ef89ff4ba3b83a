# SPDX-License-Identifier: Apache-2.0
"""Any image of a word -> pixels."""

import base64
import http.server
import io
import logging
import os
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.auto import image_processing_auto

from clip4str_hf import Clip4STRImageProcessor
from clip4str_hf.image_processing_clip4str import to_rgb


WHITE = Image.new("RGB", (9, 5), "white")


@pytest.fixture(scope="module")
def processor():
    return Clip4STRImageProcessor()


@pytest.fixture(scope="module")
def word():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (31, 97, 3), dtype=np.uint8))


def pixels(image, **kwargs):
    """Squashed 8-bit pixels, neither rescaled nor normalised, channels last."""
    processor = Clip4STRImageProcessor(do_rescale=False, do_normalize=False)
    return processor(image, return_tensors="np", **kwargs)["pixel_values"][0].transpose(1, 2, 0)


def resized(image):
    return np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))


def same(image, expected, **kwargs):
    np.testing.assert_array_equal(pixels(image, **kwargs), resized(expected))


@pytest.mark.parametrize("size", [(97, 31), (1, 1), (10000, 20), (20, 3000), (224, 224), (3, 3), (1, 50)])
def test_resizing_is_bit_equal_to_pillow(size):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    same(image, image)
    same(np.asarray(image), image)


def test_tall_images_are_turned_to_the_left_where_the_reader_wants_it(word, tmp_path):
    tall, limit = word.resize((20, 31)), word.resize((20, 30))
    turned = tall.transpose(Image.Transpose.ROTATE_90)
    same(tall, tall)
    same(tall, turned, do_align_long_axis=True)
    same(limit, limit, do_align_long_axis=True)
    same(word, word, do_align_long_axis=True)
    Clip4STRImageProcessor(do_align_long_axis=True).save_pretrained(tmp_path)
    saved = AutoImageProcessor.from_pretrained(tmp_path)
    np.testing.assert_array_equal(saved([tall, limit])["pixel_values"], saved([turned, limit])["pixel_values"])
    assert saved.is_turned(31, 20) and not saved.is_turned(30, 20)
    assert not Clip4STRImageProcessor().is_turned(31, 20)


@pytest.mark.parametrize("mean, std", [(OPENAI_CLIP_MEAN, OPENAI_CLIP_STD), ([0.5] * 3, [0.5] * 3)])
def test_pixels_are_normalised_by_clips_numbers_or_by_others(word, mean, std):
    given = {} if mean is OPENAI_CLIP_MEAN else {"image_mean": mean, "image_std": std}
    values = Clip4STRImageProcessor(**given)(word, return_tensors="pt").pixel_values
    assert values.dtype == torch.float32
    expected = (resized(word).transpose(2, 0, 1) / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(values[0].numpy(), expected, atol=1e-6)


def test_the_size_is_height_and_width(word):
    assert Clip4STRImageProcessor(size=(32, 128))(word, return_tensors="pt").pixel_values.shape == (1, 3, 32, 128)
    assert Clip4STRImageProcessor(size=64)(word, return_tensors="pt").pixel_values.shape == (1, 3, 64, 64)
    with pytest.raises(ValueError, match="height and width.*from_clip_processor"):
        Clip4STRImageProcessor(size={"shortest_edge": 224})


@pytest.mark.parametrize(
    "mode", ["1", "L", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LAB", "LA", "P", "PA"]
)
def test_every_mode_is_read(mode):
    opaque = WHITE.convert("RGBA") if mode in ("RGBa", "PA") else WHITE
    image = Image.new("LAB", WHITE.size, (255, 128, 128)) if mode == "LAB" else opaque.convert(mode)
    assert image.mode == mode
    assert pixels(image).min() >= 254


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa", "La", "PA"])
def test_transparency_is_laid_on_white(mode):
    clear = Image.new("RGBA", WHITE.size, (0, 0, 0, 0))
    image = clear.convert("LA").convert("La") if mode == "La" else clear.convert(mode)
    assert image.mode == mode
    same(image, WHITE)
    half = Image.new("RGBA", WHITE.size, (0, 0, 0, 128))
    same(half, Image.new("RGB", WHITE.size, (127, 127, 127)))


def test_transparency_of_files_is_laid_on_white_as_well(tmp_path):
    palette = Image.new("P", WHITE.size, 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "clear.png", transparency=0)
    palette.save(tmp_path / "clear.gif", transparency=0)
    palette.save(tmp_path / "opaque.png")
    Image.new("L", WHITE.size, 7).save(tmp_path / "key.png", transparency=7)
    for name in ("clear.png", "clear.gif", "key.png"):
        same(tmp_path / name, WHITE)
    same(tmp_path / "opaque.png", Image.new("RGB", WHITE.size))


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
    sixteen = eight.astype(np.uint16) * 257
    expected = Image.fromarray(eight)
    image = Image.fromarray(sixteen)
    assert image.mode == "I;16"
    image.save(tmp_path / "grey.png")
    swapped = Image.frombytes("I;16B", image.size, sixteen.astype(">u2").tobytes())
    arrays = (sixteen, sixteen.astype(">u2"), sixteen.astype(np.int32))
    for given in (image, swapped, tmp_path / "grey.png", *arrays):
        same(given, expected)
    same(Image.fromarray(sixteen.astype(np.int32)), expected)
    same(expected.convert("I"), expected)
    same(expected.convert("F"), expected)
    same(Image.fromarray(eight.astype(np.float32) / 255), expected)
    with pytest.raises(ValueError, match="its floats are 0.0 to 65535.0, where 0 to 1 or 0 to 255 are accepted"):
        to_rgb(Image.fromarray(sixteen.astype(np.float32)))
    with pytest.raises(ValueError, match="its floats are -1.0 to 1.0, where"):
        to_rgb(Image.fromarray(eight.astype(np.float32) / 127.5 - 1))


@pytest.mark.parametrize("white", [1, 255])
def test_floats_that_resizing_carried_beyond_white_and_black_are_cut_off(white):
    edge = np.zeros((8, 16), np.float32)
    edge[:, 8:] = white
    resized = Image.fromarray(edge).resize((40, 20), Image.Resampling.BICUBIC)
    assert resized.getextrema()[0] < 0 and resized.getextrema()[1] > white
    expected = np.rint((np.asarray(resized) / white).clip(0, 1) * 255).astype(np.uint8)
    assert np.array_equal(np.asarray(to_rgb(resized))[..., 0], expected)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_read(tmp_path, suffix):
    frames = [Image.new("RGB", WHITE.size, color) for color in ("white", "black", "red")]
    path = tmp_path / f"moving.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    same(path, WHITE)
    with Image.open(path) as image:
        assert image.n_frames == 3
        same(image, WHITE)


def test_the_exif_orientation_is_applied(tmp_path, word):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown a quarter turn clockwise
    word.save(tmp_path / "turned.png", exif=exif)
    upright = word.transpose(Image.Transpose.ROTATE_270)
    same(tmp_path / "turned.png", upright)
    with Image.open(tmp_path / "turned.png") as image:
        same(image, upright)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_an_image_with_damaged_exif_data_is_read_as_it_lies(tmp_path, word, suffix):
    path = tmp_path / f"damaged.{suffix}"
    word.save(path, exif=b"Exif\x00\x00garbage" * 3)
    with Image.open(path) as image:
        lying = image.convert("RGB")
    same(path, lying)


def test_one_image_is_asked_for_by_fetch_rgb(word):
    with pytest.raises(ValueError, match=r"One image is accepted, got 2\."):
        Clip4STRImageProcessor().fetch_rgb([word, word])


def test_arrays_and_tensors_of_every_layout_are_read(word):
    array = np.asarray(word)
    tensor = torch.tensor(array)
    grey = word.convert("L")
    for given in (
        array,
        array.transpose(2, 0, 1),
        tensor,
        tensor.permute(2, 0, 1),
        array / 255,
        tensor.double() / 255,
    ):
        same(given, word)
    same((tensor.permute(2, 0, 1) / 255).requires_grad_(), word)
    for given in (
        np.asarray(grey),
        np.asarray(grey)[None],
        np.asarray(grey)[..., None],
        torch.tensor(np.asarray(grey)),
    ):
        same(given, grey)
    same(np.asarray(grey) > 127, grey.point(lambda value: 255 * (value > 127)))
    same(np.dstack([array, np.zeros(array.shape[:2], np.uint8)]), Image.new("RGB", word.size, "white"))
    flat = torch.full((3, 8, 8), 0.5, dtype=torch.bfloat16)
    assert (pixels(flat) == 128).all()


def test_a_shape_with_two_possible_channels_follows_the_kind(word):
    row = np.asarray(word)[:1]  # 1 x 97 x 3: one pixel high, not one grey channel
    same(row, Image.fromarray(row))
    three = np.asarray(word)[:3]
    same(three, Image.fromarray(three))
    same(torch.tensor(three.transpose(2, 0, 1)[..., :3].copy()), Image.fromarray(three[:, :3]))
    same(three.transpose(2, 0, 1)[..., :3], Image.fromarray(three[:, :3]), input_data_format="channels_first")


def test_one_image_a_list_a_batch_and_nested_lists_are_flattened(processor, word):
    array = np.asarray(word)
    alone = processor(word, return_tensors="pt").pixel_values
    for given in ([word], (word,), [[word]], np.stack([array]), torch.tensor(array)[None]):
        torch.testing.assert_close(processor(given, return_tensors="pt").pixel_values, alone, rtol=0, atol=0)
    mixed = processor([word, [array, [WHITE]], np.stack([array, array])], return_tensors="pt").pixel_values
    assert mixed.shape == (5, 3, 224, 224)
    torch.testing.assert_close(mixed[[0, 1, 3, 4]], alone.expand(4, -1, -1, -1), rtol=0, atol=0)


def test_paths_and_data_urls_are_read(tmp_path, word):
    path = tmp_path / "wörd [1].png"
    word.save(path)
    same(str(path), word)
    same(path, word)
    for kind in ("image/png", "application/octet-stream", ""):
        same(f"data:{kind};base64," + base64.b64encode(path.read_bytes()).decode(), word)


def test_http_urls_are_read(word):
    clear = io.BytesIO()
    Image.new("RGBA", WHITE.size, (0, 0, 0, 0)).save(clear, "png")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/clear.png" else 404)
            self.end_headers()
            self.wfile.write(clear.getvalue())

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        same(f"{address}/clear.png", WHITE)
        with pytest.raises(ValueError, match=r"Image 1 \('http.*none.png'\) cannot be read.*404"):
            pixels([word, f"{address}/none.png"])
    finally:
        server.shutdown()
        server.server_close()


def test_an_unreadable_item_is_named(tmp_path, word):
    buffer = io.BytesIO()
    word.save(buffer, "png")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:400])
    (tmp_path / "text.png").write_text("no image")
    os.mkfifo(tmp_path / "pipe.png")  # nothing ever comes out of it
    for name in ("cut.png", "text.png", "missing.png", "pipe.png"):
        with pytest.raises(ValueError, match=f"Image 1 .*{name}"):
            pixels([word, tmp_path / name])
    with Image.open(tmp_path / "cut.png") as cut, pytest.raises(ValueError, match="Image 2 cannot be read"):
        pixels([word, word, cut])
    for wrong in (
        np.zeros((2, 5, 7), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros(5, np.uint8),
        np.full((4, 4), 1.5),
        np.full((4, 4), np.nan),
        np.full((4, 4), -1),
        Image.new("RGB", (0, 3)),
    ):
        with pytest.raises(ValueError, match="Image 1 cannot be read"):
            pixels([word, wrong])


@pytest.mark.parametrize("thing", [None, 3, b"bytes", {"path": "x.png"}, object()])
def test_what_is_no_image_is_named_by_its_type(word, thing):
    with pytest.raises(TypeError, match=f"Image 1 is of type {type(thing).__name__}"):
        pixels([word, thing])


def test_pixels_that_are_not_rescaled_are_not_normalised(processor, word):
    with pytest.raises(ValueError, match="do_rescale=False goes with do_normalize=False"):
        processor(word, do_rescale=False)


def test_no_image_at_all_is_an_error(processor):
    with pytest.raises(ValueError, match="No image"):
        processor([])


def test_the_callers_image_stays_as_it_is(word):
    for mode in ("P", "RGBA"):
        image = word.convert(mode)
        before = image.tobytes()
        pixels(image)
        assert (image.mode, image.tobytes()) == (mode, before)


@pytest.mark.parametrize("torchvision", [True, False])
@pytest.mark.parametrize(
    "hint", [{}, {"backend": "torchvision"}, {"backend": "pil"}, {"use_fast": True}, {"use_fast": False}]
)
def test_the_pillow_form_is_loaded_with_and_without_torchvision(
    tmp_path, monkeypatch, caplog, word, torchvision, hint
):
    monkeypatch.setattr(image_processing_auto, "is_torchvision_available", lambda: torchvision)
    Clip4STRImageProcessor(size=(48, 64), image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        loaded = AutoImageProcessor.from_pretrained(tmp_path, **hint)
    assert "backend is not available" not in caplog.text
    assert type(loaded) is Clip4STRImageProcessor
    assert loaded.backend == "pil"
    assert dict(loaded.size) == {"height": 48, "width": 64}
    assert list(loaded.image_mean) == [0.5] * 3
    expected = np.asarray(word.resize((64, 48), Image.Resampling.BICUBIC)).transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(loaded(word, return_tensors="np")["pixel_values"][0], expected, atol=1e-6)
