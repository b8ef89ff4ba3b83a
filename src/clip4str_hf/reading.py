# SPDX-License-Identifier: Apache-2.0
"""Reads many images: opens them in other threads or processes, reads them in batches and keeps their order."""

import math
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError

from .image_processing_clip4str import Clip4STRImageProcessor, is_tall
from .modeling_clip4str import Clip4STRForSceneTextRecognition
from .processing_clip4str import Clip4STRProcessor


# Arguments of `from_pretrained` that say where the files are: the processor is loaded with them too.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


def load_reader(
    name: str | os.PathLike, device: str | None = None, **kwargs
) -> tuple[Clip4STRForSceneTextRecognition, Clip4STRProcessor]:
    """
    A reader and its processor, ready to read.

    Args:
        name (`str` or `os.PathLike`): folder or Hub id.
        device (`str`, *optional*): where the model goes; by default it stays where it was loaded, on the CPU unless
            `device_map=` says otherwise.
        kwargs: arguments of the model's `from_pretrained` (`dtype=`, ...); those that say where the files are, such as
            `revision=`, also go to the processor, which is adapted to the model's characters and image size.

    Raises:
        ValueError: if there is no such reader or device, or weights are missing or left over; the message says why.
    """
    hub = {argument: kwargs[argument] for argument in HUB_ARGUMENTS if argument in kwargs}
    try:
        model, report = Clip4STRForSceneTextRecognition.from_pretrained(name, output_loading_info=True, **kwargs)
        # transformers initialises missing weights anew, and says so only in a log that scripts turn off.
        wrong = {kind: sorted(map(str, names)) for kind, names in report.items() if kind.endswith("_keys") and names}
        if wrong:
            raise ValueError(f"its weights do not fit its configuration: {wrong}")
        processor = Clip4STRProcessor.from_pretrained(name, **hub).adapted_to(model.config)
        return model if device is None else model.to(device), processor
    except (AssertionError, OSError, RuntimeError, SafetensorError, ValueError) as error:
        # AssertionError: torch without CUDA
        raise ValueError(f"{name} cannot be loaded on {device or 'cpu'}: {error}") from error


def find_images(path: str | os.PathLike) -> list[Path]:
    """
    The image files at `path`: the file itself, or all image files below a folder, sorted. Links are followed.

    Args:
        path (`str` or `os.PathLike`): a file of any name, or a folder, whose files are chosen by their suffix.

    Raises:
        FileNotFoundError: if there is no such path, or the folder has no images.
        OSError: if a folder cannot be listed.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if not path.is_dir():
        return [path]
    files = sorted(Path(folder, name) for folder, names in walk_files(path) for name in names if is_image_name(name))
    if not files:
        raise FileNotFoundError(f"{path}: no images in this folder")
    return files


def walk_files(root: str | os.PathLike) -> Iterator[tuple[str, list[str]]]:
    """
    Each folder at and below `root` once, with the names of its files; nothing if `root` is no folder. Links to folders
    are followed, also those that lead back to a folder above.

    Raises:
        OSError: if a folder cannot be listed.
    """

    def fail(error: OSError):
        raise error

    if not os.path.isdir(root):
        return
    seen = set()
    for folder, folders, names in os.walk(os.fspath(root), onerror=fail, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:
            folders.clear()
        else:
            seen.add(place)
            yield folder, names


def is_image_name(name: str | os.PathLike) -> bool:
    """Whether a file's name has the suffix of an image format that Pillow reads."""
    return Image.registered_extensions().get(os.path.splitext(name)[1].lower()) in Image.OPEN


def read_images(
    files: Iterable[str | os.PathLike],
    model: Clip4STRForSceneTextRecognition,
    processor: Clip4STRProcessor,
    batch_size: int = 32,
    num_workers: int = 0,
    rotate_vertical: bool = False,
) -> Iterator[dict]:
    """
    Reads image files, with no more than two batches of them in memory.

    Args:
        files (`Iterable` of `str` or `os.PathLike`): the images, any number of them.
        model ([`Clip4STRForSceneTextRecognition`]): the reader, on any device, in evaluation mode.
        processor ([`Clip4STRProcessor`]): its processor.
        batch_size (`int`, *optional*, defaults to 32): number of images that the model reads at once.
        num_workers (`int`, *optional*, defaults to 0): number of processes that open and resize images while the model
            reads, which a fast device needs; with 0, threads of this process do.
        rotate_vertical (`bool`, *optional*, defaults to `False`):
            Whether images more than 1.5 times as high as wide are read several times: as they are and turned by 90
            degrees to either side, or only the latter by a reader that turns them itself (`do_align_long_axis`). The
            most confident reading is the answer.

    Returns:
        An iterator over a `dict` for each file, in the order of `files`: `file` (`str`), and `text`, `score` and
        `char_scores` of [`~Clip4STRProcessor.post_process_text_recognition`]. A file that cannot be read has `error`
        (`str`) instead and does not stop the others.

    Raises:
        ValueError: if `batch_size` is below 1 or `num_workers` below 0, or `files` is a single path.
    """
    if isinstance(files, str | os.PathLike):
        raise ValueError(f"files={os.fspath(files)!r} is one path: give a list, such as that of find_images.")
    readings = read_items(files, os.fspath, model, processor, batch_size, num_workers, rotate_vertical=rotate_vertical)
    return ({"file": os.fspath(file), **reading} for file, reading in readings)


def read_items(
    items: Iterable,
    open_item: Callable[[Any], Any],
    model: Clip4STRForSceneTextRecognition,
    processor: Clip4STRProcessor,
    batch_size: int = 32,
    num_workers: int = 0,
    post_process: Callable[[Any], list[dict]] | None = None,
    rotate_vertical: bool = False,
    **generate_options,
) -> Iterator[tuple[Any, dict]]:
    """
    Reads the images of items of any kind, such as the rows of a dataset; no more than two batches are in memory.

    Args:
        items (`Iterable`): items with one image each, any number of them.
        open_item (`Callable`): returns the image of an item, of any kind that the processor reads. Called in threads,
            or in processes, for which it and the items must be picklable.
        model, processor, batch_size, num_workers, rotate_vertical: as in [`read_images`].
        post_process (`Callable`, *optional*): turns the output of `generate` into a `dict` for each row; by default
            the processor's `post_process_text_recognition`.
        generate_options: arguments of [`~Clip4STRForSceneTextRecognition.generate`], such as `refine_iters`.

    Returns:
        An iterator over a `tuple` for each item, in their order: the item, and a `dict` of `text`, `score` and
        `char_scores`, or of `error` where the image cannot be read.

    Raises:
        ValueError: if `batch_size` is below 1 or `num_workers` below 0.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    if num_workers < 0:
        raise ValueError(f"num_workers={num_workers} must be at least 0.")
    post_process = post_process or processor.post_process_text_recognition
    # Without the tokenizer, as these are sent to a process with each part of a batch.
    options = {"image_processor": processor.image_processor, "rotate_vertical": rotate_vertical}
    open_items = partial(_open_items, open_item=open_item, **options)
    read_batch = partial(_read_batch, model=model, post_process=post_process, generate_options=generate_options)
    return _read_items(iter(items), open_items, batch_size, num_workers, read_batch)


def _read_items(items, open_items, batch_size, num_workers, read_batch):
    workers = num_workers or os.cpu_count() or 1
    pool: Executor
    if num_workers:
        pool = ProcessPoolExecutor(workers, initializer=_end_with_parent)
    else:
        pool = ThreadPoolExecutor(workers)
    share = math.ceil(batch_size / workers)  # each worker opens its part of a batch
    opening = deque()
    try:
        while batch := list(islice(items, batch_size)):
            parts = [batch[start : start + share] for start in range(0, len(batch), share)]
            opening.append((batch, [pool.submit(open_items, part) for part in parts]))
            if len(opening) == 2:  # the model reads one batch while the next is opened
                yield from read_batch(*opening.popleft())
        for batch, parts in opening:
            yield from read_batch(batch, parts)
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent():
    """Lets this process end when its parent is killed; it would wait for more work for ever."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


def _open_items(items, open_item, image_processor, rotate_vertical) -> list[np.ndarray | str]:
    """Pixels `(turns, channels, height, width)` of each item, or what is wrong with it."""
    opened = []
    for item in items:
        try:
            image = open_item(item)
            images = _turns(image, image_processor) if rotate_vertical else image
            pixel_values = image_processor(images, return_tensors="np").pixel_values
            if len(pixel_values) > 1 and not rotate_vertical:
                raise ValueError(f"{len(pixel_values)} images instead of one")
            opened.append(pixel_values)
        except Exception as error:
            # The cause says what is wrong with the image; the error itself adds its place in a batch of one.
            opened.append(str(error.__cause__ or error))
    return opened


def _turns(image, image_processor: Clip4STRImageProcessor) -> list[Image.Image]:
    """The image as it is and, if it is tall, turned to the sides to which the image processor does not turn it."""
    image = image_processor.fetch_rgb(image)
    if not is_tall(image.height, image.width):
        return [image]
    turns = [Image.Transpose.ROTATE_270]
    if not image_processor.do_align_long_axis:  # which turns the unturned image to the left
        turns.append(Image.Transpose.ROTATE_90)
    return [image, *map(image.transpose, turns)]


def _read_batch(batch, parts, model, post_process, generate_options) -> Iterator[tuple[Any, dict]]:
    opened = list(chain.from_iterable(part.result() for part in parts))
    pixels = [pixel_values for pixel_values in opened if not isinstance(pixel_values, str)]
    readings = iter(())
    if pixels:
        pixel_values = torch.from_numpy(np.concatenate(pixels)).to(model.device, model.dtype)
        outputs = model.generate(pixel_values, return_dict_in_generate=True, **generate_options)
        readings = iter(post_process(outputs))
    for item, pixel_values in zip(batch, opened):
        if isinstance(pixel_values, str):
            yield item, {"error": pixel_values}
        else:
            # A tall image may have several rows.
            yield item, max(islice(readings, len(pixel_values)), key=itemgetter("score"))


__all__ = ["find_images", "is_image_name", "load_reader", "read_images", "read_items", "walk_files"]
