# SPDX-License-Identifier: Apache-2.0
"""
LMDB folders as the scene text recognition community shares them (PARSeq, CLIP4STR, deep-text-recognition-benchmark):
`num-samples`, and for each word, counted from 1, `image-%09d`, the bytes of an image file, and `label-%09d`, UTF-8.
"""

import math
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset, Features, Image, IterableDataset, Value

from ..reading import walk_files


FEATURES = Features({"image": Image(decode=False), "text": Value("string")})

# The most words in a shard of a stream. Shards come in multiples of 64, so that processes and workers, mostly powers
# of two, get equally many of them.
SHARD_WORDS = 1000
SHARD_MULTIPLE = 64
# Words that are copied each time an environment is opened.
BLOCK_WORDS = 128
INITIAL_MAP_SIZE = 1 << 28

# A process may have a folder open only once at a time, but `datasets` reads several shards in threads. A fork waits
# until none is open: the child would inherit the environment, but not the thread that closes it.
_ONE_IS_OPEN = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_ONE_IS_OPEN.acquire, after_in_parent=_ONE_IS_OPEN.release, after_in_child=_ONE_IS_OPEN.release
    )


class LmdbRange(NamedTuple):
    """Words `start` to `stop` (not included) of a folder, counted from 1."""

    folder: str
    name: str
    start: int
    stop: int
    # Size and modification time of the file: the cache of `datasets` takes a changed file for another data set.
    version: tuple[int, int]


def find_lmdbs(root: str | os.PathLike) -> list[Path]:
    """
    The LMDB folders at `root` or at any depth below it, sorted: all that hold a `data.mdb`. Links to folders are
    followed.

    Args:
        root (`str` or `os.PathLike`): an LMDB folder, or a folder of LMDB folders.

    Returns:
        `list[Path]`: empty if there are none.
    """
    return sorted(Path(folder) for folder, names in walk_files(root) if "data.mdb" in names)


def load_lmdb(
    root: str | os.PathLike,
    streaming: bool = False,
    cache_dir: str | os.PathLike | None = None,
    num_proc: int | None = None,
) -> Dataset | IterableDataset:
    """
    The words of all LMDB folders below `root`, one folder after the other.

    Args:
        root (`str` or `os.PathLike`): an LMDB folder, or a folder of LMDB folders.
        streaming (`bool`, defaults to `False`): read the LMDB files anew in each epoch instead of copying them once
            into the cache of `datasets`. Workers and processes share the shards of a stream.
        cache_dir (`str` or `os.PathLike`, *optional*): where the copy is kept. A changed file is copied again.
        num_proc (`int`, *optional*): number of processes that copy.

    Returns:
        `Dataset` or `IterableDataset`: `image`, not decoded, with the entry's name as its path
        (`IIIT5k/data.mdb/image-000000001`), and `text`. The `bytes` of an image that is missing or damaged are `None`,
        as is a text that is missing, damaged or not UTF-8.

    Raises:
        ImportError: without the lmdb library.
        ValueError: if there are no words below `root`, or [`count_words`] refuses a folder.
    """
    root = Path(root).resolve()
    counts = {folder: count_words(folder) for folder in find_lmdbs(root)}
    if not any(counts.values()):
        raise ValueError(f"{root}: no words in {len(counts)} LMDB folders.")
    options = {"features": FEATURES, "gen_kwargs": {"shards": _shards(root, counts)}}
    if streaming:
        return IterableDataset.from_generator(_read_shards, **options)
    return Dataset.from_generator(_read_shards, cache_dir=cache_dir, num_proc=num_proc, **options)


def count_words(folder: str | os.PathLike) -> int:
    """
    The number of words that an LMDB folder says it holds.

    Raises:
        ImportError: without the lmdb library.
        ValueError: if the folder is not an LMDB, is cut off or does not hold `num-samples`.
    """
    lmdb, size = _import_lmdb(), os.path.getsize(Path(folder, "data.mdb"))
    try:
        with _open(folder) as environment:
            needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
            if size < needed:  # reading beyond the end of the file would kill the process
                raise ValueError(f"{folder}: data.mdb is cut off, it has {size} of {needed} bytes. Copy it again.")
            with environment.begin() as transaction:
                stated = transaction.get(b"num-samples")
    except lmdb.Error as error:
        raise ValueError(f"{folder} cannot be read as an LMDB: {error}") from error
    if stated is None or not stated.isdigit():
        raise ValueError(f"{folder}: num-samples must be the number of words, got {stated!r}.")
    return int(stated)


def write_lmdb(batches: Iterable[list[tuple[bytes, str]]], folder: str | os.PathLike) -> int:
    """
    Writes words into an LMDB, one transaction per batch. [`~clip4str_hf.data.saving.save_words`] calls this.

    Args:
        batches (`Iterable` of `list[tuple[bytes, str]]`): for each word, the bytes of an image file and the text.
        folder (`str` or `os.PathLike`): an existing folder without an LMDB.

    Returns:
        `int`: how many words were written.

    Raises:
        ImportError: without the lmdb library.
    """
    count = 0
    # Pages may reach the disk in any order until the end: nobody reads the folder before.
    with _import_lmdb().open(os.fspath(folder), map_size=INITIAL_MAP_SIZE, sync=False) as environment:
        for batch in batches:
            items = {}
            for image, text in batch:
                count += 1
                items[b"image-%09d" % count] = image
                items[b"label-%09d" % count] = text.encode()
            _put(environment, items)
        _put(environment, {b"num-samples": b"%d" % count})
        environment.sync(True)
    return count


def num_shards(num_words: int) -> int:
    """The number of shards of a stream of `num_words` words."""
    return min(num_words, SHARD_MULTIPLE * math.ceil(num_words / (SHARD_MULTIPLE * SHARD_WORDS)))


def _shards(root: Path, counts: dict[Path, int]) -> list[tuple[LmdbRange, ...]]:
    # `datasets` shares a list of shards among processes and workers, and shuffles it. A shard may take in the end of
    # one folder and the beginning of the next.
    total = sum(counts.values())
    bounds = [total * index // num_shards(total) for index in range(num_shards(total) + 1)]
    shards = [[] for _ in bounds[1:]]
    first = 0
    for folder, count in counts.items():
        status = Path(folder, "data.mdb").stat()
        name = (root.name / folder.relative_to(root)).as_posix()
        for shard, start, stop in zip(shards, bounds, bounds[1:]):
            start, stop = max(start - first, 0), min(stop - first, count)
            if start < stop:
                version = (status.st_size, status.st_mtime_ns)
                shard.append(LmdbRange(str(folder), name, start + 1, stop + 1, version))
        first += count
    return [tuple(shard) for shard in shards]


def _read_shards(shards: list[tuple[LmdbRange, ...]]) -> Iterator[dict]:
    for shard in shards:
        for part in shard:
            for start in range(part.start, part.stop, BLOCK_WORDS):
                yield from _read_block(part, range(start, min(start + BLOCK_WORDS, part.stop)))


def _read_block(part: LmdbRange, indices: range) -> list[dict]:
    # An environment is only open here, never between two rows. So streams of one folder may be read side by side or
    # abandoned half-way, and pages that were read do not stay in the memory of the process.
    with _open(part.folder) as environment:
        return [
            {
                # A file has no files below it, so `datasets` never takes this name for one.
                "image": {
                    "bytes": _get(environment, b"image-%09d" % index),
                    "path": f"{part.name}/data.mdb/image-{index:09d}",
                },
                "text": _decode(_get(environment, b"label-%09d" % index)),
            }
            for index in indices
        ]


def _get(environment, key: bytes) -> bytes | None:
    try:
        # One transaction per key: the first damaged page makes a transaction useless.
        with environment.begin() as transaction:
            return transaction.get(key)
    except _import_lmdb().CorruptedError:
        return None


def _decode(label: bytes | None) -> str | None:
    try:
        return None if label is None else label.decode()
    except UnicodeDecodeError:
        return None


def _put(environment, items: dict[bytes, bytes]):
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for key, value in items.items():
                    transaction.put(key, value)
            return
        except _import_lmdb().MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])


@contextmanager
def _open(folder: str | os.PathLike):
    with (
        _ONE_IS_OPEN,
        _import_lmdb().open(
            os.fspath(folder), readonly=True, create=False, lock=False, readahead=False, meminit=False
        ) as environment,
    ):
        yield environment


def _import_lmdb():
    try:
        import lmdb
    except ImportError as error:
        raise ImportError('LMDB folders need the lmdb library: pip install -c constraints.txt ".[lmdb]"') from error
    return lmdb


__all__ = ["count_words", "find_lmdbs", "load_lmdb", "write_lmdb"]
