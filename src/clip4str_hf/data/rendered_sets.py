# SPDX-License-Identifier: Apache-2.0
"""Rendered words as an `imagefolder`, and as a sheet to look at."""

import csv
import math
import os
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .saving import new_folder


CELL_WIDTH, CELL_HEIGHT, LABEL_HEIGHT = 128, 40, 16


def write_word_folder(words: Dataset, folder: str | os.PathLike, num_workers: int = 0):
    """
    Writes words as an `imagefolder` of `datasets`: PNG files and a `metadata.csv` with `file_name` and `text`. The
    folder appears only once it is complete.

    Args:
        words (`torch.utils.data.Dataset`): rows with `image` and `text`, such as a [`WordCurriculum`].
        folder (`str` or `os.PathLike`): a new folder.
        num_workers (`int`, *optional*, defaults to 0): number of processes that make the rows.

    Raises:
        ValueError: if `folder` exists.
    """
    with (
        new_folder(folder) as unfinished,
        open(unfinished / "metadata.csv", "w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        table.writerow(("file_name", "text"))
        rows = DataLoader(words, batch_size=None, num_workers=num_workers)
        for index, row in enumerate(tqdm(rows, unit=" words", disable=None)):
            name = f"word_{index:08d}.png"
            row["image"].save(unfinished / name)
            table.writerow((name, row["text"]))


def contact_sheet(
    images: Sequence[Image.Image], labels: Sequence[str], columns: int = 10, font: str | os.PathLike | None = None
) -> Image.Image:
    """
    Word images side by side in cells of one size, each above its label.

    Args:
        images (`Sequence` of `PIL.Image.Image`): of any sizes.
        labels (`Sequence[str]`): one for each image.
        columns (`int`, *optional*, defaults to 10): images in a row.
        font (`str` or `os.PathLike`, *optional*): font file for the labels, by default Pillow's own, which has Latin.

    Returns:
        `PIL.Image.Image`: in mode RGB.

    Raises:
        ValueError: if there are no images, or not a label for each.
    """
    if not images or len(images) != len(labels):
        raise ValueError(f"{len(images)} images need as many labels, not {len(labels)}, and at least one.")
    row_height = CELL_HEIGHT + LABEL_HEIGHT
    sheet = Image.new("RGB", (columns * CELL_WIDTH, math.ceil(len(images) / columns) * row_height), "white")
    pen = ImageDraw.Draw(sheet)
    label_font = ImageFont.load_default(size=11) if font is None else ImageFont.truetype(font, 11)
    for index, (image, label) in enumerate(zip(images, labels)):
        left, top = index % columns * CELL_WIDTH, index // columns * row_height
        scale = min((CELL_WIDTH - 4) / image.width, CELL_HEIGHT / image.height)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        sheet.paste(image.resize(size, Image.Resampling.BICUBIC), (left, top))
        pen.text((left, top + CELL_HEIGHT), label, "black", label_font)
    return sheet


__all__ = ["contact_sheet", "write_word_folder"]
