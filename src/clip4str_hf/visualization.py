# SPDX-License-Identifier: Apache-2.0
"""Pictures of where in an image its characters were read from."""

import numpy as np
from PIL import Image

from .image_processing_clip4str import to_rgb


GLOW = (255, 64, 0)


def overlay_attentions(image, maps) -> list[Image.Image]:
    """
    The image once for each of its characters, glowing where that character was read from.

    Args:
        image (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
            An image of any mode or shape that [`Clip4STRImageProcessor`] reads.
        maps (`torch.FloatTensor` or `np.ndarray` of shape `(characters, rows, columns)`):
            Its maps from [`~Clip4STRProcessor.post_process_attentions`], of pixels, or of patches if the image was not
            turned to be read.

    Returns:
        `list[PIL.Image.Image]`: RGB, of the size of the image, which is shown in grey so that the glow stands out. The
        glow is strongest where a character has the most weight, however much that is.

    Raises:
        ValueError: if the maps have another shape, or the image cannot be read.
    """
    maps = np.asarray(maps, dtype=np.float32)
    if maps.ndim != 3:
        raise ValueError(f"maps must be of shape (characters, rows, columns), got {maps.shape}.")
    grey = to_rgb(image).convert("L").convert("RGB")
    glow = Image.new("RGB", grey.size, GLOW)
    return [Image.composite(glow, grey, _strength(weights, grey.size)) for weights in maps]


def attention_strip(image, maps) -> Image.Image:
    """
    The pictures of [`overlay_attentions`] in a single one, with the first character at the top.

    Raises:
        ValueError: if there is no character, the maps have another shape, or the image cannot be read.
    """
    pictures = overlay_attentions(image, maps)
    if not pictures:
        raise ValueError("There are no maps to show: the text is empty.")
    width, height = pictures[0].size
    gap = max(1, height // 16)
    strip = Image.new("RGB", (width, len(pictures) * (height + gap) - gap), "white")
    for index, picture in enumerate(pictures):
        strip.paste(picture, (0, index * (height + gap)))
    return strip


def _strength(weights: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """How much of the glow shows, 0 to 255; never all of it, so that the letter can be seen."""
    strength = Image.fromarray(weights / max(weights.max(), 1e-12) * 192)
    return strength.resize(size, Image.Resampling.BILINEAR).convert("L")


__all__ = ["attention_strip", "overlay_attentions"]
