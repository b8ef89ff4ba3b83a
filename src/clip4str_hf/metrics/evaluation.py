# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a reader on labelled words, and its report."""

from collections.abc import Callable, Iterable, Sequence
from io import BytesIO

from PIL import Image, UnidentifiedImageError

from ..data.words import read_image_bytes
from ..modeling_clip4str import Clip4STRForSceneTextRecognition
from ..processing_clip4str import Clip4STRProcessor
from ..reading import read_items
from .analysis import WordAnalysis
from .benchmarks import BENCHMARKS, group_means
from .protocol import FIGURES, MAX_LABEL_LENGTH, WordTally
from .tables import markdown_table


# By the names that reports and scripts use.
CHARSET_SIZES = {"36": 36, "62": 62, "94": 94, "exact": None}


def evaluate_words(
    words: Iterable[dict],
    model: Clip4STRForSceneTextRecognition,
    processor: Clip4STRProcessor,
    charset_sizes: Sequence[int | None] = (36,),
    batch_size: int = 32,
    num_workers: int = 0,
    report: Callable[[dict], None] = lambda problem: None,
    analyze: bool = False,
    **generate_options,
) -> dict[str, dict]:
    """
    Reads words, each once, and compares them with their labels by the protocol.

    Args:
        words (`Iterable[dict]`):
            Rows with the label in `text`, and in `image` what a column of images holds, decoded or not. No more than
            two batches of them are in memory.
        model ([`Clip4STRForSceneTextRecognition`]): the reader, on any device, in evaluation mode.
        processor ([`Clip4STRProcessor`]): the reader's.
        charset_sizes (`Sequence[int]`, defaults to `(36,)`): 36, 62, 94 and `None`, see [`normalize`].
        batch_size (`int`, defaults to 32): images that the model reads at once.
        num_workers (`int`, *optional*, defaults to 0): processes that open images; with 0, threads.
        report (`Callable`, *optional*):
            Called with each word that is misread or not read, as a `dict` of `row` (`int`, from 0), `image` (`str`,
            its path, or `None`) and `label`, with either `text`, `score` and `charsets` (`list[str]`, under which it
            is misread), or `error`. Words with an `error` are not counted, as they say nothing about the reader.
        analyze (`bool`, defaults to `False`): whether to add the results of a [`WordAnalysis`], which keeps some
            numbers of each word.
        generate_options: arguments of [`~Clip4STRForSceneTextRecognition.generate`], such as `refine_iters`.

    Returns:
        `dict`: for each charset, `"36"`, `"62"`, `"94"` or `"exact"`, what [`~WordTally.results`] gives. Labels longer
        than 25 characters do not count, unless the reader was made for longer ones.

    Raises:
        ValueError: if there is no such charset, `batch_size` is below 1 or `num_workers` below 0.
    """
    longest = max(MAX_LABEL_LENGTH, model.config.max_label_length)
    tallies = {
        "exact" if size is None else str(size): WordTally(size, longest, WordAnalysis() if analyze else None)
        for size in charset_sizes
    }
    readings = read_items(words, open_word, model, processor, batch_size, num_workers, **generate_options)
    for row, (word, reading) in enumerate(readings):
        text, label = reading.get("text"), word["text"]
        score = reading.get("score", 0.0)
        misread = [name for name, tally in tallies.items() if tally.add(text, label, score)]
        problem = {"row": row, "image": image_path(word["image"]), "label": label}
        if "error" in reading:
            report(problem | reading)
        elif label is None:
            report(problem | {"error": "the label is missing or no UTF-8"})
        elif misread:
            report(problem | {"text": text, "score": score, "charsets": misread})
    return {name: tally.results() for name, tally in tallies.items()}


def make_report(model: str, options: dict, sets: dict[str, dict[str, dict] | None]) -> dict:
    """
    The result of an evaluation, ready for JSON.

    Args:
        model (`str`): the name of the reader.
        options (`dict`): how it read; in `sources` where the words of each set come from, and in `splits` the split
            of each set that has several (`to_eval_results` needs both).
        sets (`dict`): for each set what [`evaluate_words`] gives; `None` for a benchmark that is missing.

    Returns:
        `dict`: `model` and `options`; `sets`, for each `published_words` (`int`, `None` if it is no benchmark) and
        `charsets`, or `None` if it is missing; `groups`, what [`group_means`] gives; `notes` (`list[str]`), what one
        must know to judge the figures. Figures are 0 to 1.
    """
    return {
        "model": model,
        "options": options,
        "sets": {
            name: None if charsets is None else {"published_words": BENCHMARKS.get(name), "charsets": charsets}
            for name, charsets in sets.items()
        },
        "groups": group_means(sets),
        "notes": [note for name, charsets in sets.items() if charsets for note in _notes(name, charsets)],
    }


def to_markdown(report: dict) -> str:
    """
    The report of [`make_report`] in Markdown: the reader and its options, a table with a row for each set and each
    group of sets (means weighted by words), and the notes. Figures are in %, under each charset; a dash is for none.
    """
    options = ", ".join(
        f"{name} {value}"
        for name, value in report["options"].items()
        if name not in ("sources", "splits") and value is not None
    )
    caption = f"{report['model']} ({options}). Figures in %, means of groups weighted by words."
    charsets = next((list(found["charsets"]) for found in report["sets"].values() if found), [])
    head = [f"{title} ({name})" for name in charsets for title in ("words", "word accuracy", "1 - NED", "confidence")]
    rows = [["set", *head]]
    for name, found in report["sets"].items():
        rows.append([name, *_cells(found and found["charsets"], charsets)])
    for name, found in report["groups"].items():
        rows.append([f"**{name}**: {' '.join(found['sets'])}", *_cells(found["charsets"], charsets)])
    notes = ["", *(f"- {note}" for note in report["notes"])] if report["notes"] else []
    return "\n".join([caption, "", markdown_table(rows), *notes]) + "\n"


def open_word(word: dict):
    """
    The image of a row, opened if it is a column's `dict` of `bytes` and `path`.

    Raises:
        ValueError: if there is no image, or the file is not one.
        OSError: if the file cannot be opened.
    """
    image = word["image"]
    if image is None:
        raise ValueError("there is no image")
    if not isinstance(image, dict):
        return image
    try:
        return Image.open(BytesIO(read_image_bytes(image)))
    except UnidentifiedImageError:  # whose own message may hold the address of an object
        raise ValueError("this is no image") from None


def image_path(image) -> str | None:
    """The path of a row's image, if it has one."""
    return image.get("path") if isinstance(image, dict) else None


def _notes(name: str, charsets: dict[str, dict]) -> list[str]:
    # Sizes are published for 36 characters.
    charset = "36" if "36" in charsets else next(iter(charsets))
    countable, published = charsets[charset]["words"] + charsets[charset]["unreadable"], BENCHMARKS.get(name)
    notes = []
    if published not in (None, countable):
        notes.append(f"{name} has {countable} words (charset {charset}), not the {published} that are published.")
    for charset, figures in charsets.items():
        skipped = {
            "unreadable images": figures["unreadable"],
            "empty labels": figures["empty_labels"],
            "too long labels": figures["long_labels"],
        }
        if any(skipped.values()):
            counts = ", ".join(f"{count} {what}" for what, count in skipped.items() if count)
            notes.append(f"{name} (charset {charset}): not counted are {counts}.")
    return notes


def _cells(found: dict[str, dict] | None, charsets: list[str]) -> list[str]:
    if found is None:
        return ["-"] * (len(charsets) * (len(FIGURES) + 1))
    return [
        cell
        for charset in charsets
        for cell in (
            str(found[charset]["words"]),
            *("-" if found[charset][name] is None else f"{100 * found[charset][name]:.2f}" for name in FIGURES),
        )
    ]


__all__ = ["CHARSET_SIZES", "evaluate_words", "make_report", "open_word", "to_markdown"]
