# SPDX-License-Identifier: Apache-2.0
"""Words to train and evaluate on: loaded from any of the usual formats, cleaned up by the benchmarks' protocol."""

import csv
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from glob import escape
from io import BytesIO
from itertools import chain
from pathlib import Path

import fsspec
import PIL.Image
from datasets import (
    Array2D,
    Array3D,
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    List,
    NamedSplit,
    Value,
    concatenate_datasets,
    load_dataset_builder,
    load_from_disk,
)
from datasets.exceptions import DatasetGenerationError
from transformers.utils import logging

from ..image_processing_clip4str import to_rgb
from ..reading import is_image_name, walk_files
from ..tokenization_clip4str import Clip4STRTokenizer
from .lmdb_words import FEATURES, load_lmdb, num_shards


logger = logging.get_logger(__name__)

TEXT_COLUMNS = ("text", "label")
METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
TEXT_TYPES = ("string", "large_string", "string_view")
# The number of words whose images are in memory while they are checked.
BATCH_WORDS = 100
NAMES_KEPT = 10
FOLDERS_ARE_NO_TEXTS = (
    "Images need a metadata.csv with the columns file_name and text beside them; names of folders are no texts."
)


def load_words(
    source: str | os.PathLike,
    split: str | None = None,
    streaming: bool = False,
    default_split: str = "train",
    image_column: str = "image",
    text_column: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    num_proc: int | None = None,
    **kwargs,
) -> Dataset | IterableDataset:
    """
    Loads images of words with their texts. Images are not decoded, so that a broken one stops nothing; [`clean_words`]
    drops such words and decodes the others.

    The kind of `source` is recognised by what it holds:
        - LMDB folders (`data.mdb`) at any depth: the words of all of them;
        - what `save_to_disk` has written;
        - a parquet file, or a folder of them;
        - an `imagefolder`: images with a `metadata.csv` (`.jsonl`, `.parquet`) of the columns `file_name` and `text`.
          In a CSV file texts are taken literally, be it `007` or `NA`. With a metadata file at the top the whole
          folder is one split, without one the folders or files named after splits are;
        - a Hub id, if there is no such file or folder.

    Args:
        source (`str` or `os.PathLike`): path or Hub id.
        split (`str`, *optional*): name of the split. Defaults to the only one, or among several to `default_split`.
        streaming (`bool`, defaults to `False`): read while iterating instead of preparing a copy on disk first.
        default_split (`str`, defaults to `"train"`): the split to read if there are several and `split` is not given.
        image_column (`str`, defaults to `"image"`): column of the images.
        text_column (`str`, *optional*): column of the texts. Defaults to `"text"`, or to `"label"` if there is none.
        cache_dir (`str` or `os.PathLike`, *optional*): where copies are kept, by default the cache of `datasets`.
        num_proc (`int`, *optional*): number of processes that prepare the copy, if there is one.
        kwargs: arguments of `datasets.load_dataset_builder`, for parquet and the Hub: `name`, `revision`, `token`, ...

    Returns:
        `Dataset` or `IterableDataset`: with the columns `image`, `Image(decode=False)`, and `text`, `string`.

    Raises:
        ImportError: if `source` is LMDB and the lmdb library is missing.
        ValueError: if `source` is of none of these kinds, has no such split or columns, or has no texts.

    Example:

    ```python
    >>> words = load_words("data/train/real", streaming=True).shuffle(seed=0, buffer_size=10_000)
    >>> words, report = clean_words(words, processor)
    >>> trainer = Trainer(model, args, DataCollatorForTextRecognition(processor), train_dataset=words)
    ```"""
    path, kind = Path(source), _kind(source)
    if kind in ("lmdb", "saved", "folder") and kwargs:
        raise ValueError(f"{sorted(kwargs)} do not apply to {source}, which is read without `load_dataset_builder`.")
    choose_split = partial(_choose_split, source, split, default_split)
    try:
        words = _load(source, kind, choose_split, text_column, streaming, cache_dir, num_proc, **kwargs)
    except DatasetGenerationError as error:
        raise ValueError(f"{source}: {error.__cause__ or error}") from error
    if streaming and isinstance(words, Dataset):
        stream = words.to_iterable_dataset(num_shards=max(1, num_shards(len(words))))
        words = concatenate_datasets([stream], split=words.split)  # which a stream of a Dataset forgets
    return _standard_columns(path, words, image_column, text_column)


@dataclass
class CleaningReport:
    """
    What [`clean_words`] dropped and why. `str` makes a line of totals and a line for each reason.

    Attributes:
        num_words (`int`): words that were checked.
        num_changed (`int`): words that were kept and whose label the clean-up changed.
        changes (`list[str]`): the first 10 of them: file or entry, label, and what it was changed to.
        dropped (`dict[str, int]`): how many words were dropped, by reason.
        names (`dict[str, list[str]]`): for each reason the first 10 words dropped: file or entry (if it has no name,
            the number of the row, from 0) and label.
    """

    num_words: int = 0
    num_changed: int = 0
    changes: list[str] = field(default_factory=list)
    dropped: Counter = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)

    @property
    def num_kept(self) -> int:
        """Words that were not dropped."""
        return self.num_words - self.dropped.total()

    def add(self, problem: str | None, changed: bool, name: str):
        """Counts a word, given why it is dropped, or `None`, whether the clean-up changed its label, and its name."""
        self.num_words += 1
        if problem is not None:
            self.dropped[problem] += 1
            names = self.names.setdefault(problem, [])
        elif changed:
            self.num_changed += 1
            names = self.changes
        else:
            return
        if len(names) < NAMES_KEPT:
            names.append(name)

    def __str__(self) -> str:
        changes = f": {_listed(self.changes, self.num_changed)}" if self.changes else ""
        lines = [
            f"{self.num_kept} of {self.num_words} words kept, {self.num_changed} of them with a changed label{changes}"
        ]
        for problem, count in self.dropped.most_common():
            lines.append(f"{count} dropped, {problem}: {_listed(self.names[problem], count)}")
        return "\n".join(lines)


def _listed(names: list[str], count: int) -> str:
    return ", ".join(names) + (", .." if count > len(names) else "")


def clean_words(
    words: Dataset | IterableDataset, tokenizer=None, clean_labels: bool = True, num_proc: int | None = None
) -> tuple[Dataset | IterableDataset, CleaningReport]:
    """
    Drops words that cannot be trained on: those whose image is missing, empty or cannot be decoded (each is tried), or
    whose label is missing, empty, too long or holds characters outside the charset.

    Args:
        words (`Dataset` or `IterableDataset`): with the columns `image` and `text`, as [`load_words`] gives them.
        tokenizer ([`Clip4STRTokenizer`] or [`Clip4STRProcessor`], *optional*): decides which labels are accepted.
            Without one, labels stay as they are and only missing and empty ones are dropped.
        clean_labels (`bool`, defaults to `True`): whether labels first go through [`~Clip4STRTokenizer.clean`], the
            clean-up of the benchmarks' protocol.
        num_proc (`int`, *optional*): number of processes that check a `Dataset`.

    Returns:
        `tuple`:
            - the remaining words, of the same type as `words`: `image`, PIL images, and `text`, cleaned;
            - [`CleaningReport`], complete for a `Dataset`. For an `IterableDataset` it counts as words are read, on
              through every epoch; a worker of a `DataLoader` counts in a copy, so that this one stays empty.

    Raises:
        ValueError: if a column is missing, `text` holds no texts, or `num_proc` is given for a stream.

    Example:

    ```python
    >>> words, report = clean_words(load_words("data/train/real"), processor)
    >>> print(report)
    ```"""
    missing = {"image", "text"}.difference(words.column_names or ("image", "text"))
    if missing:
        raise ValueError(f"No columns {sorted(missing)} among {sorted(words.column_names)}.")
    if words.features is not None:
        _check_texts("words", "text", words.features["text"])
    check = _Check(getattr(tokenizer, "tokenizer", tokenizer), clean_labels)
    words = words.select_columns(["image", "text"])
    if isinstance(words, Dataset):
        if not len(words):  # casts would fail
            return words, CleaningReport()
        return _clean_dataset(words.cast_column("image", Image(decode=False)), check, num_proc)
    if num_proc is not None:
        raise ValueError(f"num_proc={num_proc} is for a Dataset: a stream is checked by what reads it.")
    report = CleaningReport()
    checked = words.cast(FEATURES).map(
        _keep_batch,
        with_indices=True,
        input_columns=["image", "text"],
        batched=True,
        batch_size=BATCH_WORDS,
        fn_kwargs={"check": check, "report": report},
    )
    # Not with `features=` in `map`: casts after that would decode nothing.
    return checked.cast(Features({"image": Image(), "text": Value("string")})), report


def read_image_bytes(image: dict) -> bytes:
    """
    The bytes of a row's image file, with `Image(decode=False)`.

    Args:
        image (`dict`): with `bytes`, or with the `path` of a file or a URL that `fsspec` opens.

    Raises:
        OSError: if the file cannot be read.
    """
    if image["bytes"] is not None:
        return image["bytes"]
    if "://" not in image["path"]:
        return Path(image["path"]).read_bytes()
    with fsspec.open(image["path"], "rb") as file:
        return file.read()


def _kind(source: str | os.PathLike) -> str:
    path = Path(source)
    if not path.exists():
        if path.is_absolute() or str(source).startswith((".", "~")) or str(source).count("/") > 1:
            raise ValueError(f"{source}: no such file or folder, and no Hub id.")
        return "Hub id"
    if path.is_file() and path.suffix.lower() == ".parquet":
        return "parquet file"
    if any(Path(path, name).is_file() for name in ("state.json", "dataset_dict.json")):
        return "saved"
    found = {_mark(name) for _, names in walk_files(path) for name in names}
    # A repository of parquet files may hold pictures as well, but no metadata for them.
    marks = {"data": "lmdb", "metadata": "folder", "parquet": "parquet folder", "image": "folder"}
    kinds = [kind for mark, kind in marks.items() if mark in found]
    if len(found - {None, "image"}) > 1:
        raise ValueError(
            f"{source} holds words of several kinds, {' and '.join(kinds[:2])}: give their folders one by one, or "
            "move those of one kind away."
        )
    if kinds:
        return kinds[0]
    raise ValueError(
        f"{source} holds no words: accepted are LMDB folders (data.mdb), folders of save_to_disk, parquet files and "
        "images with a metadata.csv."
    )


def _mark(name: str) -> str | None:
    if name == "data.mdb":
        return "data"
    if name in METADATA_NAMES:
        return "metadata"
    if name.endswith(".parquet"):  # the library finds no others in a folder
        return "parquet"
    return "image" if is_image_name(name) else None


def _load(source, kind: str, choose_split: Callable, text_column, streaming, cache_dir, num_proc, **kwargs):
    path = Path(source)
    if kind == "lmdb":
        choose_split(["train"])
        return load_lmdb(path, streaming, cache_dir, num_proc)
    if kind == "saved":
        return _load_saved(path, choose_split)
    if kind == "folder":
        return _load_image_folder(path, choose_split, text_column, cache_dir, num_proc)
    if kind == "parquet file":
        source, kwargs = "parquet", kwargs | {"data_files": escape(str(path))}
    elif kind == "parquet folder" and escape(str(path)) != str(path):  # the library takes the path for a pattern
        source, kwargs = "parquet", kwargs | {"data_dir": escape(str(path))}
    folder = path if kind == "parquet folder" else None
    return _load_built(source, choose_split, streaming, cache_dir, num_proc, folder, **kwargs)


def _choose_split(source, split: str | None, default: str, splits: list[str]) -> str:
    chosen = split or (splits[0] if len(splits) == 1 else default)
    if chosen not in splits:
        raise ValueError(f"{source} has the splits {splits}, not {chosen!r}.")
    return chosen


def _load_saved(path: Path, choose_split: Callable) -> Dataset:
    saved = load_from_disk(path)
    if isinstance(saved, DatasetDict):
        split = choose_split(list(saved))
        return concatenate_datasets([saved[split]], split=NamedSplit(split))  # which may remember another name
    choose_split([str(saved.split or "train")])
    return saved


def _load_built(
    source, choose_split: Callable, streaming, cache_dir, num_proc, folder: Path | None, **kwargs
) -> Dataset | IterableDataset:
    builder = load_dataset_builder(str(source), cache_dir=cache_dir, **kwargs)
    if folder and not (folder / "README.md").exists():  # which may say what belongs to which configuration
        _check_covered(folder, builder.config.data_files or {}, lambda name: name.endswith(".parquet"))
    split = choose_split([str(name) for name in builder.config.data_files or ()])
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset(split=split)


def _load_image_folder(path: Path, choose_split: Callable, text_column, cache_dir, num_proc) -> Dataset:
    # Rows hold only the paths of images, so there is nothing to stream.
    # A table at the top describes the whole folder, whatever files and folders are called: the library would look for
    # splits in names such as `word_train_1.png`, and leave the table itself out of them.
    whole = {"train": "**"} if any((path / name).exists() for name in METADATA_NAMES) else None
    builder = load_dataset_builder("imagefolder", data_dir=escape(str(path)), data_files=whole, cache_dir=cache_dir)
    data_files = {str(name): files for name, files in builder.config.data_files.items()}
    if whole is None:
        _check_covered(path, data_files, lambda name: name in METADATA_NAMES)
    split = choose_split(list(data_files))
    listed = [file for file in data_files[split] if os.path.basename(file) in METADATA_NAMES]
    tables = [file for file in listed if os.path.basename(file) == "metadata.csv"]
    if 0 < len(tables) < len(listed):
        raise ValueError(
            f"{path}: {', '.join(listed)} are of several kinds: make all of them metadata.csv, or move some away."
        )
    if not listed:
        raise ValueError(f"{path}: images without texts. {FOLDERS_ARE_NO_TEXTS}")
    if not tables:
        builder.download_and_prepare(num_proc=num_proc)
        return builder.as_dataset(split=split)
    # The library takes `007` for 7, and `NA` and `None` for no text, but here they are words.
    text_column = text_column or _find_text_column(_columns_of_table(tables[0]))
    for table in tables:
        _check_columns(table, _columns_of_table(table), "file_name", text_column)
    _check_rows(path, tables, num_images=sum(map(is_image_name, data_files[split])))
    return Dataset.from_generator(
        _read_tables,
        features=Features({"image": Image(decode=False), text_column: Value("string")}),
        cache_dir=cache_dir,
        # The version changes with any file of the folder, so that no outdated copy is used.
        gen_kwargs={"tables": tables, "text_column": text_column, "version": builder.config_id},
        split=NamedSplit(split),
    )


def _check_covered(path, data_files: dict[str, list[str]], holds_words: Callable[[str], bool]):
    """The library takes files and folders named after splits, and leaves all others out without a word."""
    # Without the images, of which there may be millions.
    listed = (file for files in data_files.values() for file in files if holds_words(os.path.basename(file)))
    taken = set(map(os.path.realpath, listed))
    left = [
        os.path.join(folder, name)
        for folder, names in walk_files(path)
        if not any(part.startswith((".", "__")) for part in Path(folder).relative_to(path).parts)
        for name in names
        if holds_words(name) and os.path.realpath(os.path.join(folder, name)) not in taken
    ]
    if left:
        raise ValueError(
            f"{path}: some of its files and folders are named like splits ({', '.join(map(str, data_files))}), and "
            f"{sorted(left)[:5]} belong to none: give folders one by one, or rename them."
        )


def _columns_of_table(table: str) -> list[str]:
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            columns = next(csv.reader(file), [])
            deque(file, maxlen=0)  # to the end, as the rest must be readable too
    except UnicodeDecodeError as error:
        raise ValueError(f"{table} is not UTF-8, save it as UTF-8: {error}") from None
    return columns


def _check_rows(path, tables: list[str], num_images: int):
    """Reads all rows once, because the library would say less clearly what is wrong."""
    num_rows, outside = 0, []
    for row in chain.from_iterable(map(_rows, tables)):
        num_rows += 1
        if row["file_name"] and not _is_inside(row["file_name"]):
            outside.append(row["file_name"])
    if not num_rows:
        raise ValueError(f"{', '.join(tables)}: no words")
    if outside:
        logger.warning(
            "%s: %d rows name files outside their table's folder and have no image then, the first %r: file_name is "
            "relative, and in or below that folder.",
            path,
            len(outside),
            outside[0],
        )
    if num_images > num_rows:
        logger.warning("%s: %d images, but texts for at most %d: the others are left out.", path, num_images, num_rows)


def _read_tables(tables: list[str], text_column: str, version: str) -> Iterator[dict]:
    for table in tables:
        for row in _rows(table):
            name = row["file_name"]
            yield {
                "image": os.path.join(os.path.dirname(table), name) if name and _is_inside(name) else None,
                text_column: row[text_column],
            }


def _is_inside(name: str) -> bool:
    """As in the library, a table may only name files in or below its own folder."""
    return not os.path.isabs(name) and "://" not in name and ".." not in Path(name).parts


def _rows(table: str) -> Iterator[dict]:
    """The rows, checked: a table written by hand may lack quotes, or have one too many."""
    read = 1  # lines, the first of which names the columns
    with open(table, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                if None in row or any(value and ("\n" in value or "\r" in value) for value in row.values()):
                    raise csv.Error("more columns or lines than one text has")
                yield row
                read = reader.line_num
        except csv.Error as error:
            reason = f"{error}. A text with a comma or a quote is put in quotes, and its own quotes are doubled."
            raise ValueError(f"{table}, after line {read}: {reason}") from error


def _find_text_column(columns) -> str:
    return next((name for name in TEXT_COLUMNS if name in columns), TEXT_COLUMNS[0])


def _check_columns(source, columns, *names: str):
    for name in names:
        if name not in columns:
            hint = "" if name == "file_name" else " Other names are given as image_column and text_column."
            raise ValueError(f"{source} has no column {name!r}, but {sorted(columns)}.{hint}")
        if list(columns).count(name) > 1:
            raise ValueError(f"{source} has several columns {name!r} among {sorted(columns)}.")


def _check_texts(source, name: str, kind):
    if isinstance(kind, ClassLabel) or getattr(kind, "dtype", None) not in TEXT_TYPES:
        raise ValueError(
            f"{source}: the column {name!r} must hold text, not {kind}. "
            + (FOLDERS_ARE_NO_TEXTS if isinstance(kind, ClassLabel) else "Save the texts as strings.")
        )


def _check_images(source, name: str, kind):
    if isinstance(kind, Value):
        is_image = kind.dtype in (*TEXT_TYPES, "binary", "large_binary")  # paths, or files
    elif isinstance(kind, dict):
        is_image = {"bytes", "path"} >= kind.keys()
    else:
        is_image = isinstance(kind, Image | Array2D | Array3D) or isinstance(getattr(kind, "feature", None), List)
    if not is_image:
        raise ValueError(f"{source}: the column {name!r} must hold an image in each row, not {kind}.")


def _standard_columns(source, words, image_column: str, text_column: str | None) -> Dataset | IterableDataset:
    columns = words.features
    if columns is None:
        raise ValueError(f"{source}: its columns are not known before it is read, so it cannot be streamed.")
    text_column = text_column or _find_text_column(columns)
    _check_columns(source, columns, image_column, text_column)
    _check_texts(source, text_column, columns[text_column])
    _check_images(source, image_column, columns[image_column])
    words = words.select_columns([image_column, text_column])
    # First, because renaming the columns of a stream would decode its images and encode them anew, with losses.
    words = words.cast_column(image_column, Image(decode=False))
    renamed = {image_column: "image", text_column: "text"}
    return words.rename_columns({old: new for old, new in renamed.items() if old != new})


class _Check:
    """The label of a word as it is used, and what is wrong with the word."""

    def __init__(self, tokenizer: Clip4STRTokenizer | None, clean_labels: bool):
        self.tokenizer = tokenizer
        self.clean_labels = clean_labels

    def __call__(self, image: dict | None, text: str | None) -> tuple[str | None, str | None]:
        if text is None:
            return None, "label missing or no UTF-8"
        if self.tokenizer is not None and self.clean_labels:
            text = self.tokenizer.clean(text)
        return text, self._label_problem(text) or _image_problem(image)

    def _label_problem(self, text: str) -> str | None:
        if not text.strip():
            return "label empty"
        if self.tokenizer is None:
            return None
        if any(char not in self.tokenizer.vocab for char in text):
            return "label outside the charset"
        if len(text) > self.tokenizer.max_label_length:
            return f"label longer than {self.tokenizer.max_label_length} characters"
        return None


def _image_problem(image: dict | None) -> str | None:
    if image is None or (image["bytes"] is None and image["path"] is None):
        return "image missing"
    try:
        data = read_image_bytes(image)
    except (FileNotFoundError, NotADirectoryError):
        return "image missing"
    except Exception:  # a folder, no permission, anything that a file system of fsspec raises
        return "image unreadable"
    if not data:
        return "image empty"
    try:
        with PIL.Image.open(BytesIO(data)) as opened:
            to_rgb(opened)
    except Exception:  # decoders raise errors of many types
        return "image unreadable"
    return None


def _check_batch(images: list, texts: list, indices: list[int], check: _Check) -> dict[str, list]:
    checked = {"text": [], "problem": [], "changed": [], "name": []}
    for image, text, index in zip(images, texts, indices):
        cleaned, problem = check(image, text)
        name = None
        if problem or cleaned != text:
            name = f"{(image or {}).get('path') or f'row {index}'} {text!r}"
        if name and not problem:
            name += f" as {cleaned!r}"
        for column, value in zip(checked.values(), (cleaned, problem, cleaned != text, name)):
            column.append(value)
    return checked


def _keep_batch(images: list, texts: list, indices: list[int], check: _Check, report: CleaningReport):
    checked = _check_batch(images, texts, indices, check)
    kept = {"image": [], "text": []}
    for image, text, *outcome in zip(images, *checked.values()):
        report.add(*outcome)
        if outcome[0] is None:
            kept["image"].append(image)
            kept["text"].append(text)
    return kept


def _clean_dataset(words: Dataset, check: _Check, num_proc: int | None) -> tuple[Dataset, CleaningReport]:
    # Texts and verdicts are written beside the images, which stay where they are.
    string = Value("string")
    checked = words.map(
        _check_batch,
        with_indices=True,
        input_columns=["image", "text"],
        batched=True,
        batch_size=BATCH_WORDS,
        remove_columns=words.column_names,
        features=Features({"text": string, "problem": string, "changed": Value("bool"), "name": string}),
        fn_kwargs={"check": check},
        num_proc=num_proc,
        desc="Checking words",
    )
    report = CleaningReport()
    for batch in checked.select_columns(["problem", "changed", "name"]).iter(batch_size=10_000):
        for outcome in zip(*batch.values()):
            report.add(*outcome)
    words = concatenate_datasets([words.select_columns(["image"]), checked], axis=1, split=words.split)
    if report.dropped:
        words = words.filter(_without_problem, input_columns=["problem"], batched=True, batch_size=10_000)
    return words.select_columns(["image", "text"]).cast_column("image", Image()), report


def _without_problem(problems: list[str | None]) -> list[bool]:
    return [problem is None for problem in problems]


__all__ = ["CleaningReport", "clean_words", "load_words", "read_image_bytes"]
