# SPDX-License-Identifier: Apache-2.0
"""Augmentation of word crops (PARSeq, arXiv 2207.06966, and CLIP4STR)."""

import math
import zlib
from functools import partial

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from transformers import TrainerCallback

from ..image_processing_clip4str import Clip4STRImageProcessor, is_tall


MAX_MAGNITUDE = 10
# Each operation that was drawn is applied with this probability (timm's RandAugment, which PARSeq uses).
PROBABILITY = 0.5
FILL_COLOR = (128, 128, 128)
RESAMPLING = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


# The operations. Each takes an RGB image, a level from 0 to 1 and a generator, and returns another RGB image.


def _auto_contrast(image, level, generator):
    return ImageOps.autocontrast(image)


def _equalize(image, level, generator):
    return ImageOps.equalize(image)


def _invert(image, level, generator):
    return ImageOps.invert(image)


def _posterize(image, level, generator):
    # 4 bits down to 1: 0 would leave a black image.
    return ImageOps.posterize(image, max(1, 4 - int(4 * level)))


def _solarize(image, level, generator):
    return ImageOps.solarize(image, 256 - int(256 * level))


def _enhance(image, level, generator, enhancer):
    return enhancer(image).enhance(1 + 0.9 * _signed(level, generator))


def _gaussian_blur(image, level, generator):
    radius = min(4 * level, max(1, 0.02 * max(image.size)))
    return image.filter(ImageFilter.GaussianBlur(round(radius)))


def _poisson_noise(image, level, generator):
    """Makes each pixel brighter or darker by a Poisson random number, the same for its three channels."""
    rate = min(40 * level, max(1, 0.2 * max(image.size)))
    shape = (image.height, image.width, 1)
    noise = generator.poisson(rate, shape).astype(np.int16)
    noise *= generator.integers(2, size=shape, dtype=np.int16) * 2 - 1
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def _rotate(image, level, generator):
    degrees = 30 * _signed(level, generator)
    return image.rotate(degrees, _resampling(generator), expand=True, fillcolor=FILL_COLOR)


def _shear_x(image, level, generator):
    shear = 0.9 * _signed(level, generator)
    # Wider by as much as the rows move apart.
    room = math.ceil(abs(shear) * (image.height - 1))
    offset = -room if shear > 0 else 0
    return _affine(image, (image.width + room, image.height), (1, shear, offset, 0, 1, 0), generator)


def _shear_y(image, level, generator):
    shear = 0.2 * _signed(level, generator)
    room = math.ceil(abs(shear) * (image.width - 1))
    offset = -room if shear > 0 else 0
    return _affine(image, (image.width, image.height + room), (1, 0, 0, shear, 1, offset), generator)


def _translate_x(image, level, generator):
    pixels = 0.1 * _signed(level, generator) * image.width
    return _affine(image, image.size, (1, 0, pixels, 0, 1, 0), generator)


def _translate_y(image, level, generator):
    pixels = 0.3 * _signed(level, generator) * image.height
    return _affine(image, image.size, (1, 0, 0, 0, 1, pixels), generator)


def _signed(level: float, generator: np.random.Generator) -> float:
    return level if generator.random() < 0.5 else -level


def _resampling(generator: np.random.Generator) -> Image.Resampling:
    return RESAMPLING[generator.integers(len(RESAMPLING))]


def _affine(image, size, matrix, generator):
    return image.transform(size, Image.Transform.AFFINE, matrix, _resampling(generator), fillcolor=FILL_COLOR)


OPERATIONS = {
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "Color": partial(_enhance, enhancer=ImageEnhance.Color),
    "Contrast": partial(_enhance, enhancer=ImageEnhance.Contrast),
    "Brightness": partial(_enhance, enhancer=ImageEnhance.Brightness),
    "GaussianBlur": _gaussian_blur,
    "PoissonNoise": _poisson_noise,
    "Rotate": _rotate,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
}


class TextAugmentation(TrainerCallback):
    """
    RandAugment (arXiv 1909.13719) for word crops, as PARSeq (github.com/baudm/parseq, strhub/data/augment.py) and
    CLIP4STR train with it. A few different `OPERATIONS` are drawn for each image, and each is applied with probability
    0.5. At magnitude 10 an image is turned by 30 degrees either way, sheared by 0.9 of its height and 0.2 of its
    width, moved by 0.1 of its width and 0.3 of its height; at magnitude 5 by half of that.

    Two things differ from PARSeq. Shearing enlarges the image, as rotation does in both, so that a word keeps all its
    characters; and timm's SolarizeAdd is left out.

    Without a generator, `seed`, `epoch` and the pixels of an image decide how it is augmented: the number of workers,
    the batch size and the order of the rows change nothing. [`Trainer`] counts the epochs if the augmentation is among
    its `callbacks`; otherwise, or with `dataloader_persistent_workers`, every epoch sees the same images.

    Args:
        num_operations (`int`, defaults to 3): operations drawn for each image.
        magnitude (`float`, defaults to 5): their strength, 0 to 10. AutoContrast, Equalize and Invert have none.
        seed (`int`, defaults to 0): another seed gives other augmentations.
        image_column (`str`, defaults to `"image"`): the column that [`~TextAugmentation.transform`] augments.
        do_align_long_axis (`bool`, defaults to `False`): whether tall images are turned to the left first, as an image
            processor with this option does; afterwards they may be too wide for it to do so.

    Raises:
        ValueError: if `num_operations`, `magnitude` or `seed` is out of range.

    Example:

    ```python
    >>> augmentation = TextAugmentation(seed=0)
    >>> words.set_transform(augmentation.transform)
    >>> trainer = Trainer(model, args, DataCollatorForTextRecognition(processor), words, callbacks=[augmentation])
    ```"""

    def __init__(
        self,
        num_operations: int = 3,
        magnitude: float = 5,
        seed: int = 0,
        image_column: str = "image",
        do_align_long_axis: bool = False,
    ):
        if not 0 <= num_operations <= len(OPERATIONS):
            raise ValueError(f"num_operations={num_operations} must lie in 0 to {len(OPERATIONS)}.")
        if not 0 <= magnitude <= MAX_MAGNITUDE:
            raise ValueError(f"magnitude={magnitude} must lie in 0 to {MAX_MAGNITUDE}.")
        if seed < 0:
            raise ValueError(f"seed={seed} must not be negative.")
        self.num_operations = num_operations
        self.magnitude = magnitude
        self.seed = seed
        self.image_column = image_column
        self.do_align_long_axis = do_align_long_axis
        self.epoch = 0

    def __deepcopy__(self, memo) -> "TextAugmentation":
        # A dataset copies its transform with itself now and then: the epochs would be counted elsewhere.
        return self

    def __call__(self, image, generator: np.random.Generator | None = None) -> Image.Image:
        """
        An augmented copy of an image.

        Args:
            image:
                One image of any kind, mode and size that [`Clip4STRImageProcessor`] reads, a path for example.
            generator (`np.random.Generator`, *optional*):
                Decides instead of seed, epoch and pixels: for example `np.random.default_rng((seed, epoch, index))`
                for row `index` of a dataset.

        Returns:
            `PIL.Image.Image`: in mode RGB, of whatever size the operations gave it.

        Raises:
            TypeError: if it is not an image.
            ValueError: if the image has no pixels or cannot become RGB, or a path cannot be read.
        """
        image = Clip4STRImageProcessor.fetch_rgb(image)
        if generator is None:
            generator = np.random.default_rng((self.seed, self.epoch, zlib.crc32(image.tobytes())))
        if self.do_align_long_axis and is_tall(image.height, image.width):
            image = image.transpose(Image.Transpose.ROTATE_90)
        operations = list(OPERATIONS.values())
        for index in generator.permutation(len(operations))[: self.num_operations]:
            if generator.random() < PROBABILITY:
                image = operations[index](image, self.magnitude / MAX_MAGNITUDE, generator)
        return image

    def transform(self, batch: dict[str, list]) -> dict[str, list]:
        """
        Rows with augmented images, for `set_transform` and `with_transform` of a dataset.

        Args:
            batch (`dict[str, list]`): columns of equal length.

        Raises:
            ValueError: if there is no `image_column`.
        """
        if self.image_column not in batch:
            raise ValueError(f"No column {self.image_column!r} among {sorted(batch)}: give image_column.")
        return {**batch, self.image_column: [self(image) for image in batch[self.image_column]]}

    def on_train_begin(self, args, state, control, **kwargs):
        """Starts counting at the epoch that training starts or resumes in; [`Trainer`] calls this."""
        self.epoch = int(state.epoch or 0) - 1

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Counts an epoch, which gets augmentations of its own; [`Trainer`] calls this."""
        # Counted here, because the state's epoch lags behind in a stream of unknown length.
        self.epoch += 1


__all__ = ["OPERATIONS", "TextAugmentation"]
