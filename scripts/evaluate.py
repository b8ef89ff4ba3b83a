# SPDX-License-Identifier: Apache-2.0
"""Evaluates a reader by the protocol of the scene text benchmarks: word accuracy, 1 - NED and confidence by set."""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from datasets import disable_progress_bars
from datasets.exceptions import DatasetsError
from tqdm import tqdm
from transformers.utils import logging

from clip4str_hf.command_line import (
    add_batch_arguments,
    add_reader_arguments,
    add_words_arguments,
    require_at_least,
    words_options,
)
from clip4str_hf.data.words import load_words
from clip4str_hf.metrics.benchmarks import BENCHMARKS, find_benchmarks
from clip4str_hf.metrics.evaluation import CHARSET_SIZES, evaluate_words, make_report, to_markdown
from clip4str_hf.metrics.model_index import load_card, write_results
from clip4str_hf.reading import load_reader


MISREAD_COLUMNS = ("set", "row", "image", "label", "text", "score", "charsets")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_reader_arguments(parser)
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="[NAME=]WORDS", help="LMDB, imagefolder, parquet or Hub dataset"
    )
    parser.add_argument("--benchmarks", metavar="ROOT", help=f"folder of any of {', '.join(BENCHMARKS)}")
    add_words_arguments(parser, "test")
    parser.add_argument("--charset", nargs="+", choices=CHARSET_SIZES, default=["36"], help="characters to compare")
    parser.add_argument("--refine-iters", type=int, help="refinements (default: the model's own)")
    parser.add_argument("--visual-only", action="store_true", help="the visual branch alone")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="(default: the checkpoint's)")
    add_batch_arguments(parser)
    parser.add_argument("--misreads", type=Path, metavar="FILE", help="lists every misread: .tsv or .jsonl")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for results.json and results.md")
    parser.add_argument("--card", type=Path, metavar="FILE", help="model card for the results, made if need be")
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="accuracy by length, confusions and calibration of each set"
    )
    arguments = parser.parse_args()
    if not (arguments.data or arguments.benchmarks):
        parser.error("give words with --data or --benchmarks")
    require_at_least(parser, arguments, batch_size=1, num_workers=0, refine_iters=0)
    for name in ("split", "name", "image_column", "text_column"):
        if not arguments.data and getattr(arguments, name) != parser.get_default(name):
            parser.error(
                f"--{name.replace('_', '-')} is of --data: benchmarks have one split, and columns of their own"
            )
    if arguments.misreads and arguments.misreads.suffix not in (".tsv", ".jsonl"):
        parser.error(f"--misreads {arguments.misreads} must end in .tsv or .jsonl")
    return arguments


def name_sets(arguments: argparse.Namespace, benchmarks: dict[str, Path | None]) -> dict[str, str | Path | None]:
    sets: dict[str, str | Path | None] = {**benchmarks}
    for given in arguments.data:
        name, equals, source = given.partition("=")
        if not equals or Path(given).exists():
            path, source = Path(given).resolve(), given
            name = path.stem if path.is_file() else path.name
        if not source:
            raise ValueError(f"{given} names no words: give NAME=WORDS.")
        if sets.get(name) is not None:
            raise ValueError(f"Two sets are named {name}: give them as NAME=WORDS.")
        sets[name] = source
    return sets


@contextmanager
def misreads_file(path: Path | None) -> Iterator[Callable[[dict], None]]:
    """Yields a function that writes a misread; the file appears once it is complete."""
    if path is None:
        yield lambda misread: None
        return
    part = path.with_name(f"{path.name}.part")
    with open(part, "w", encoding="utf-8", newline="") as file:
        try:
            if path.suffix == ".tsv":
                table = csv.DictWriter(file, MISREAD_COLUMNS, dialect="excel-tab", lineterminator="\n")
                table.writeheader()
                yield lambda misread: table.writerow(misread | {"charsets": ",".join(misread["charsets"])})
            else:
                yield lambda misread: print(json.dumps(misread, ensure_ascii=False), file=file)
        except BaseException:  # from hours of reading, even if interrupted
            print(f"The misreads so far are in {part}.", file=sys.stderr)
            raise
    part.replace(path)


def load(arguments: argparse.Namespace):
    """
    The model, its processor, the words of each set, where these come from, and the splits of those that have several.
    Exits with a message if anything is wrong.
    """
    try:
        benchmarks = find_benchmarks(arguments.benchmarks) if arguments.benchmarks else {}
        sources = name_sets(arguments, benchmarks)
        # Benchmarks have one split, and columns of their own.
        options = {name: {} if benchmarks.get(name) else words_options(arguments) for name in sources}
        words = {
            name: source and load_words(source, streaming=True, **options[name]) for name, source in sources.items()
        }
        if arguments.plots:
            import clip4str_hf.metrics.plots  # noqa: F401  (says now, not after the evaluation, what is missing)
        for folder in (arguments.output, arguments.plots, arguments.misreads and arguments.misreads.parent):
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
        if arguments.card and arguments.card.exists():
            load_card(arguments.card)
        own = {name: rows for name, rows in words.items() if rows is not None and not benchmarks.get(name)}
        splits = {name: str(rows.split or "train") for name, rows in own.items()}
        if arguments.split is None:  # what the library calls "train" may have no splits
            splits = {name: split for name, split in splits.items() if split != "train"}
        return *load_reader(arguments.model, arguments.device, dtype=arguments.dtype), words, sources, splits
    except (DatasetsError, ImportError, OSError, ValueError) as error:  # ImportError: no LMDB library, no matplotlib
        sys.exit(str(error))


def evaluate_sets(
    arguments: argparse.Namespace, words: dict, model, processor, options: dict, report: Callable[[str, dict], None]
) -> Iterator[dict[str, dict | None]]:
    """The figures of the sets so far, after each of them; `None` for those that are missing or not read yet."""
    charset_sizes = [CHARSET_SIZES[name] for name in arguments.charset]
    sets = dict.fromkeys(words)
    for name, rows in words.items():
        if rows is not None:
            sets[name] = evaluate_words(
                tqdm(rows, name, BENCHMARKS.get(name), unit=" words", disable=None),
                model,
                processor,
                charset_sizes,
                arguments.batch_size,
                arguments.num_workers,
                partial(report, name),
                analyze=arguments.plots is not None,
                **options,
            )
        yield sets


def save_report(folder: Path | None, result: dict):
    if folder is not None:
        (folder / "results.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (folder / "results.md").write_text(to_markdown(result), encoding="utf-8")


def main() -> int:
    arguments = parse_arguments()
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()

    model, processor, words, sources, splits = load(arguments)
    default = model.generation_config.refine_iters
    options = {
        "refine_iters": default if arguments.refine_iters is None else arguments.refine_iters,
        "visual_only": arguments.visual_only or model.generation_config.visual_only,
    }
    data = {"sources": {name: str(source) for name, source in sources.items() if source}, "splits": splits}
    data |= options | {"dtype": str(model.dtype).removeprefix("torch.")}
    unreadable = []

    def report(name: str, problem: dict):
        if "error" in problem:
            unreadable.append(problem)
            where = problem["image"] or f"row {problem['row']}"
            tqdm.write(f"{name}, {where}: {problem['error']}", file=sys.stderr)
        else:
            list_misread({"set": name, **problem})

    with misreads_file(arguments.misreads) as list_misread:
        for sets in evaluate_sets(arguments, words, model, processor, options, report):
            result = make_report(arguments.model, data, sets)
            # After each set: the benchmarks take hours, and the last of them as long as all the others.
            save_report(arguments.output, result)
    print(to_markdown(result), end="")
    if arguments.card:
        write_results(arguments.card, result, model)
    if arguments.plots:
        from clip4str_hf.metrics.plots import save_plots

        save_plots(sets, arguments.plots)
    empty = [name for name, found in sets.items() if found and not any(figures["words"] for figures in found.values())]
    for name in empty:
        print(f"{name}: no word was counted under charset {' or '.join(arguments.charset)}", file=sys.stderr)
    return 1 if unreadable or empty else 0


if __name__ == "__main__":
    sys.exit(main())
