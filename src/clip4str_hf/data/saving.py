# SPDX-License-Identifier: Apache-2.0
"""Words on disk: parquet, `save_to_disk` of `datasets`, or LMDB."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, IterableDataset, Value
from datasets.utils import tqdm
from datasets.utils.py_utils import convert_file_size_to_int

from .lmdb_words import write_lmdb
from .words import read_image_bytes


FORMATS = ("parquet", "datasets", "lmdb")
# Limits of a batch, whichever is reached first: it is held in memory, and makes a parquet row group or a transaction.
BATCH_WORDS = 1000
BATCH_BYTES = 1 << 25
# A folder that holds only such files may be overwritten.
OWN_FILES = (
    "*-of-*.parquet",
    "*-of-*.arrow",
    "cache-*.arrow",
    "dataset_info.json",
    "state.json",
    "data.mdb",
    "lock.mdb",
)


def save_words(
    words: Dataset | IterableDataset,
    folder: str | os.PathLike,
    format: str = "parquet",
    shard_size: int | str = "500MB",
    overwrite: bool = False,
) -> int:
    """
    Writes words into a folder that [`~clip4str_hf.data.words.load_words`] can read. The bytes of image files are
    copied as they are. The folder gets its name only once it is complete.

    Args:
        words (`Dataset` or `IterableDataset`): with the columns `image` and `text`; [`clean_words`] drops words
            that cannot be written.
        folder (`str` or `os.PathLike`): the folder to make.
        format (`str`, defaults to `"parquet"`):
            - `"parquet"`: files named after the split, which `load_dataset` reads too;
            - `"datasets"`: what `load_from_disk` reads, for a `Dataset` only;
            - `"lmdb"`: an LMDB folder, see [`~clip4str_hf.data.lmdb_words`].
        shard_size (`int` or `str`, defaults to `"500MB"`): size in bytes at which a new file of parquet or Arrow
            begins.
        overwrite (`bool`, defaults to `False`): replace a folder that holds nothing but words.

    Returns:
        `int`: how many words were written.

    Raises:
        ImportError: for LMDB without the lmdb library.
        ValueError: if there are no words or, except for `"datasets"`, one has no image or text; if `folder` exists,
            unless it may be overwritten; if `format` is unknown or does not go with a stream.
    """
    if format not in FORMATS:
        raise ValueError(f"format={format!r} must be one of {FORMATS}.")
    if format == "datasets" and not isinstance(words, Dataset):
        raise ValueError("format='datasets' needs a Dataset, not a stream: load the words without streaming.")
    shard_size = convert_file_size_to_int(shard_size)
    with new_folder(folder, overwrite) as temporary:
        if format == "datasets":
            count = len(words)
            if count:
                words.cast_column("image", Image()).save_to_disk(temporary, max_shard_size=shard_size)
        elif format == "parquet":
            count = _write_parquet(_batches(words), temporary, shard_size, str(words.split or "train"))
        else:
            batches = ([(row["image"]["bytes"], row["text"]) for row in batch] for batch in _batches(words))
            count = write_lmdb(batches, temporary)
        if not count:
            raise ValueError(f"There are no words to write to {folder}.")
    return count


def check_folder(folder: str | os.PathLike, overwrite: bool = False):
    """
    Checks in advance whether [`save_words`] would accept a folder.

    Raises:
        ValueError: if `folder` exists and is not to be overwritten, or holds anything but files of words.
    """
    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise ValueError(f"{folder} exists: choose another name, or overwrite it.")
    if folder.exists() and not (folder.is_dir() and all(map(_is_own, folder.iterdir()))):
        raise ValueError(f"{folder} holds more than files of words {OWN_FILES} and is not overwritten.")


def _is_own(path: Path) -> bool:
    return path.is_file() and any(fnmatch(path.name, pattern) for pattern in OWN_FILES)


@contextmanager
def new_folder(folder: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """
    A temporary folder beside `folder`, which is renamed to `folder` if the block ends without error, or else deleted.

    Raises:
        ValueError: as in [`check_folder`].
    """
    check_folder(folder, overwrite)
    folder = Path(os.path.abspath(folder))
    temporary = folder.with_name(f".{folder.name}.incomplete-{os.getpid()}")
    replaced = folder.with_name(f".{folder.name}.replaced-{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            folder.rename(replaced)
        temporary.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _batches(words: Dataset | IterableDataset) -> Iterator[list[dict]]:
    batch, size = [], 0
    rows = words.cast_column("image", Image(decode=False))
    total = len(words) if isinstance(words, Dataset) else None
    for index, row in enumerate(tqdm(rows, total=total, desc="Writing words", unit=" words")):
        batch.append(_embed(row, index))
        size += len(batch[-1]["image"]["bytes"])
        if len(batch) == BATCH_WORDS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _embed(row: dict, index: int) -> dict:
    image, text = row["image"], row["text"]
    if image is None or text is None or (image["bytes"] is None and image["path"] is None):
        raise ValueError(f"Row {index} has no image or no text: leave such words out with `clean_words`.")
    if image["bytes"] is None:  # where the file was is nobody else's business
        try:
            image = {"bytes": read_image_bytes(image), "path": os.path.basename(image["path"])}
        except OSError as error:
            raise ValueError(f"Row {index} has no image: {error}. Leave such words out with `clean_words`.") from error
    return {"image": image, "text": text}


def _write_parquet(batches: Iterable[list[dict]], folder: Path, shard_size: int, split: str) -> int:
    # The schema holds the features too, so that other programs see that the column holds images.
    schema = Features({"image": Image(), "text": Value("string")}).arrow_schema
    files, count = [], 0
    batches = iter(batches)
    for first in batches:
        files.append(folder / f"{len(files)}.parquet")
        size = 0
        with pq.ParquetWriter(files[-1], schema) as writer:
            for batch in chain([first], batches):
                table = pa.Table.from_pylist(batch, schema)
                writer.write_table(table)
                count += len(batch)
                size += table.nbytes
                if size >= shard_size:
                    break
    for index, file in enumerate(files):
        file.rename(folder / f"{split}-{index:05d}-of-{len(files):05d}.parquet")
    return count


__all__ = ["check_folder", "new_folder", "save_words"]
