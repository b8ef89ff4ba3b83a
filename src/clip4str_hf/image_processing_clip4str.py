# SPDX-License-Identifier: Apache-2.0
"""Clip4STR image processor: any image of a word -> pixels."""

import base64
import os
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from transformers import CLIPImageProcessorPil

# The HTTP client of `load_image`: the package behind it depends on the version of huggingface_hub.
from transformers.image_utils import ChannelDimension, httpx, is_valid_image
from transformers.processing_utils import ImagesKwargs
from transformers.utils import is_torch_tensor


# Ratio of height to width above which a word runs upwards or downwards, or is a single narrow character.
TALL_RATIO = 1.5


class Clip4STRImageProcessorKwargs(ImagesKwargs, total=False):
    """
    Adds to the arguments of every image processor:

    Attributes:
        do_align_long_axis (`bool`, *optional*):
            Whether images more than 1.5 times as high as wide are turned by 90 degrees to the left before they are
            squashed, so that the letters of a vertical word stay apart. The reader must have been trained this way, as
            the one in this package was; those of the paper were not.
    """

    do_align_long_axis: bool


class Clip4STRImageProcessor(CLIPImageProcessorPil):
    r"""
    Image processor of a [`Clip4STRForSceneTextRecognition`] (arXiv 2305.14014). It is CLIP's, except that:

    - an image is squashed to `size`: bicubic, without keeping the aspect ratio, without centre crop; with
      `do_align_long_axis=True`, one more than 1.5 times as high as wide is first turned by 90 degrees to the left;
    - it always uses Pillow and is bit-equal to `Image.resize`, with or without torchvision, because the released
      models were trained on such pixels;
    - it reads more kinds of images, in the same way wherever they come from.

    It reads one image or a list (nested lists are flattened) of:

    - paths, `http(s)://` and `data:` URLs of files that Pillow reads; of an animation, the first frame is read;
    - PIL images of any mode. The EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled to
      8 bits; mode `I` counts as 8-bit if no value exceeds 255, mode `F` is 0 to 1, or 0 to 255 if any value is 2 or
      more;
    - NumPy arrays and torch tensors, `(height, width)`, or with 1 (grey), 3 (RGB) or 4 (RGBA) channels, first or
      last, and batches of these. Integers are 8-bit, but `uint16` and values above 255 are 16-bit; floats lie in 0 to
      1. If both ends of a shape could be the channels, 3 and 4 take precedence over 1; after that, arrays have the
      channels last and tensors first. `input_data_format` overrides this.

    A call returns `pixel_values`: float32 of shape `(batch, 3, height, width)` with `return_tensors="pt"`.

    Raises:
        TypeError: if an item is not an image; the message names its position and type.
        ValueError: if an image cannot be read; the message names its position, and its path or URL if it has one.
            Also if `size` lacks height or width, `do_normalize` is set without `do_rescale`, or no image is given.
    """

    _auto_class = "AutoImageProcessor"  # saved with its code
    size = {"height": 224, "width": 224}
    default_to_square = True
    do_center_crop = False
    do_align_long_axis = False
    valid_kwargs = Clip4STRImageProcessorKwargs

    def is_turned(self, height: int, width: int) -> bool:
        """Whether an image of this size in pixels is turned to the left before it is squashed."""
        return self.do_align_long_axis and is_tall(height, width)

    def turn_back(self, maps, height: int, width: int):
        """Maps `(characters, rows, columns)`, a tensor, of an image of this size in pixels, turned as it stands."""
        return maps.rot90(-1, (1, 2)) if self.is_turned(height, width) else maps

    @classmethod
    def fetch_images(cls, images) -> list:
        """
        A flat list of images. Those given by path or URL are opened; PIL images, arrays and tensors stay as they are.

        Raises:
            TypeError: if an item is not an image.
            ValueError: if a path or URL cannot be read, or there is no image.
        """
        images = [cls._fetch(index, image) for index, image in enumerate(_flatten(images))]
        if not images:
            raise ValueError("No image was given.")
        return images

    @classmethod
    def fetch_rgb(cls, image) -> Image.Image:
        """
        Opens one image, of any kind that this processor reads, as a PIL image of mode RGB.

        Raises:
            TypeError: if it is not an image.
            ValueError: if it cannot be read, or there are several images.
        """
        images = cls.fetch_images(image)
        if len(images) != 1:
            raise ValueError(f"One image is accepted, got {len(images)}.")
        return to_rgb(images[0])

    @staticmethod
    def _fetch(index: int, image):
        if isinstance(image, str | os.PathLike):
            try:
                return _open(os.fspath(image))
            except Exception as error:
                raise ValueError(f"Image {index} ({str(image)[:200]!r}) cannot be read: {error}") from error
        if not is_valid_image(image):
            raise TypeError(
                f"Image {index} is of type {type(image).__name__}: accepted are paths, URLs, PIL images, "
                "NumPy arrays and torch tensors."
            )
        return image

    def _prepare_image_like_inputs(self, images, *args, input_data_format=None, **kwargs) -> list[np.ndarray]:
        # The step of the base class from what it was given to what it resizes: uint8, channels first, RGB.
        prepared = []
        for index, image in enumerate(self.fetch_images(images)):
            try:
                rgb = to_rgb(image, input_data_format)
            except Exception as error:
                raise ValueError(f"Image {index} cannot be read: {error}") from error
            prepared.append(np.moveaxis(np.asarray(rgb), -1, 0))
        return prepared

    def _preprocess(self, images: list[np.ndarray], *args, do_align_long_axis: bool, **kwargs):
        if do_align_long_axis:
            images = [np.rot90(image, axes=(1, 2)) if is_tall(*image.shape[1:]) else image for image in images]
        return super()._preprocess(images, *args, **kwargs)

    def _standardize_kwargs(self, *args, **kwargs) -> dict:
        kwargs = super()._standardize_kwargs(*args, **kwargs)
        size = kwargs["size"]
        if not (size.height and size.width):
            raise ValueError(
                f"size must hold height and width, got {dict(size)}: words are squashed, their aspect ratio is not "
                "kept. `Clip4STRProcessor.from_clip_processor` takes over the processor of a CLIP."
            )
        if kwargs["do_normalize"] and not kwargs["do_rescale"]:
            raise ValueError(
                "do_rescale=False goes with do_normalize=False alone: mean and deviation are of pixels from 0 to 1, "
                "and images of floats are read as 8-bit too."
            )
        return kwargs


def is_tall(height: int, width: int) -> bool:
    """Whether an image of this size is so tall that a word in it is likely to be vertical."""
    return height > TALL_RATIO * width


def _flatten(images) -> list:
    if isinstance(images, Sequence) and not isinstance(images, str | bytes):
        return [image for item in images for image in _flatten(item)]
    # A PIL image has no `ndim`.
    return list(images) if getattr(images, "ndim", None) == 4 else [images]


def _open(source: str) -> Image.Image:
    # Not transformers' `load_image`: it converts to RGB, which drops transparency and clips 16-bit grey.
    file: str | BytesIO
    if source.startswith(("http://", "https://")):
        file = BytesIO(httpx.get(source, follow_redirects=True).raise_for_status().content)
    elif source.startswith("data:"):
        file = BytesIO(base64.b64decode(source.partition(",")[2]))
    elif Path(source).is_fifo():
        raise ValueError("it is a named pipe, which is no image file and may never end")
    else:
        file = source
    with Image.open(file) as image:
        image.load()
    return image


def to_rgb(image, input_data_format: ChannelDimension | str | None = None) -> Image.Image:
    """
    A PIL image, array or tensor of any kind that [`Clip4STRImageProcessor`] reads, as a PIL image of mode RGB.

    Raises:
        ValueError: if it has no pixels, or values or a shape that cannot be those of an image.
    """
    if isinstance(image, Image.Image):
        image.load()  # so that only damage to the EXIF data is passed over: the image is then read as it lies
        with suppress(Exception):
            image = ImageOps.exif_transpose(image)
    else:
        image = _from_array(image, input_data_format)
    if 0 in image.size:
        raise ValueError(f"it has {image.width} x {image.height} pixels")
    if image.mode == "F" or image.mode.startswith("I"):
        pixels = np.asarray(image)
        if image.mode == "F":
            low, high = pixels.min(), pixels.max()
            white = 1 if high < 2 else 255
            if not (-white / 4 < low and high < 2 * white):  # smaller excess is overshoot from resizing
                raise ValueError(f"its floats are {low} to {high}, where 0 to 1 or 0 to 255 are accepted")
            pixels = (pixels / white).clip(0, 1)
        image = Image.fromarray(_to_uint8(pixels))
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _from_array(image, input_data_format: ChannelDimension | str | None) -> Image.Image:
    is_torch = is_torch_tensor(image)
    if is_torch:
        image = image.detach().cpu()
        # NumPy has no bfloat16.
        image = image.float().numpy() if image.is_floating_point() else image.numpy()
    shape = image.shape
    if image.ndim == 3:
        if input_data_format is None:
            possible = (3, 4) if shape[0] in (3, 4) or shape[-1] in (3, 4) else (1,)
            first = shape[0] in possible and (is_torch or shape[-1] not in possible)
        else:
            first = ChannelDimension(input_data_format) == ChannelDimension.FIRST
        image = np.moveaxis(image, 0, -1) if first else image
        image = image[..., 0] if image.shape[-1] == 1 else image
    if 0 in shape or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[-1] not in (3, 4)):
        raise ValueError(f"its shape {tuple(shape)} is not (height, width) or with 1, 3 or 4 channels first or last")
    return Image.fromarray(np.ascontiguousarray(_to_uint8(image)))


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind == "b":
        return pixels * np.uint8(255)
    if pixels.dtype.kind not in "iuf":
        raise ValueError(f"pixels of type {pixels.dtype} are not numbers")
    low, high = pixels.min(), pixels.max()
    limit = 1 if pixels.dtype.kind == "f" else 65535
    if not (low >= 0 and high <= limit):  # negated so that NaN fails
        raise ValueError(f"pixels of type {pixels.dtype} must lie in 0 to {limit}, got {low} to {high}")
    if limit > 1 and high <= 255 and pixels.dtype.type is not np.uint16:  # in either byte order
        limit = 255
    return np.rint(pixels * np.float32(255 / limit)).astype(np.uint8)


__all__ = ["Clip4STRImageProcessor"]
