# SPDX-License-Identifier: Apache-2.0
"""Reading many image files: opened in threads, read in batches, answered in their order."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

from .modeling_clip4str import Clip4STRForSceneTextRecognition
from .processing_clip4str import Clip4STRProcessor


def find_images(path: str | os.PathLike) -> list[Path]:
    """
    The image files that `path` stands for: itself, or all below a folder, sorted.

    Args:
        path (`str` or `os.PathLike`): a file of any name, or a folder, of which files are taken by their suffix.

    Raises:
        FileNotFoundError: if there is no such path, or a folder without images.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if not path.is_dir():
        return [path]
    Image.init()
    readable = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in readable and file.is_file())
    if not files:
        raise FileNotFoundError(f"{path}: no images in this folder")
    return files


def read_images(
    files: Iterable[str | os.PathLike],
    model: Clip4STRForSceneTextRecognition,
    processor: Clip4STRProcessor,
    batch_size: int = 32,
    num_workers: int | None = None,
) -> Iterator[dict]:
    """
    Reads image files, of which no more than two batches are in memory.

    Args:
        files (`Iterable` of `str` or `os.PathLike`): the images, in any number.
        model ([`Clip4STRForSceneTextRecognition`]): the reader, on any device, in evaluation mode.
        processor ([`Clip4STRProcessor`]): the reader's.
        batch_size (`int`, *optional*, defaults to 32): images that the model reads at once.
        num_workers (`int`, *optional*): threads that open images; by default what `ThreadPoolExecutor` takes.

    Returns:
        An iterator over a `dict` for each file, in the order of `files`: `file` (`str`), and what
        [`~Clip4STRProcessor.post_process_text_recognition`] gives, `text`, `score` and `char_scores`. A file that
        cannot be read has `error` (`str`) instead and stops nothing.

    Raises:
        ValueError: if `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    return _read_images(iter(files), model, processor, batch_size, num_workers)


def _read_images(files, model, processor, batch_size, num_workers):
    with ThreadPoolExecutor(num_workers) as pool:
        opening = deque()
        while batch := list(islice(files, batch_size)):
            opening.append([(file, pool.submit(_open_image, file, processor)) for file in batch])
            if len(opening) == 2:  # the model reads one batch while the next is opened
                yield from _read_batch(opening.popleft(), model, processor)
        for batch in opening:
            yield from _read_batch(batch, model, processor)


def _open_image(file: str | os.PathLike, processor: Clip4STRProcessor) -> torch.Tensor:
    return processor(images=os.fspath(file), return_tensors="pt").pixel_values


def _read_batch(batch: list[tuple[str | os.PathLike, Future]], model, processor) -> Iterator[dict]:
    pixels = [opened.result() for _, opened in batch if opened.exception() is None]
    readings = iter(())
    if pixels:
        pixel_values = torch.cat(pixels).to(model.device, model.dtype)
        outputs = model.generate(pixel_values, return_dict_in_generate=True)
        readings = iter(processor.post_process_text_recognition(outputs))
    for file, opened in batch:
        error = opened.exception()
        # The cause says what is wrong with the file; around it stands its place in a batch of one.
        answer = next(readings) if error is None else {"error": str(error.__cause__ or error)}
        yield {"file": os.fspath(file), **answer}


__all__ = ["find_images", "read_images"]
