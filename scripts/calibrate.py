# SPDX-License-Identifier: Apache-2.0
"""Calibrates the confidences of a reader: fits a temperature to labelled words that it was not trained on."""

import argparse
import sys
from itertools import chain
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
from clip4str_hf.metrics.calibration import (
    calibration_errors,
    fit_temperature,
    read_for_calibration,
    write_temperature,
)
from clip4str_hf.metrics.evaluation import CHARSET_SIZES
from clip4str_hf.reading import load_reader


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=f"{__doc__} Every second word, from the first, is for the fit; the others tell what it is worth."
    )
    add_reader_arguments(parser)
    parser.add_argument(
        "--data", nargs="+", required=True, metavar="WORDS", help="LMDB, imagefolder, parquet or Hub dataset"
    )
    add_words_arguments(parser, "validation")
    parser.add_argument(
        "--charset",
        choices=CHARSET_SIZES,
        default="exact",
        help="characters that decide what is right (default: exact, labels cleaned up as for the training)",
    )
    add_batch_arguments(parser)
    parser.add_argument("--write", action="store_true", help="write the temperature into the model's config.json")
    arguments = parser.parse_args()
    require_at_least(parser, arguments, batch_size=1, num_workers=0)
    if arguments.write and not (Path(arguments.model) / "config.json").is_file():
        parser.error(f"--write needs a reader in a folder, {arguments.model} is none")
    return arguments


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def main() -> int:
    arguments = parse_arguments()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    problems, num_rows = [], 0

    def counted(rows):
        nonlocal num_rows
        for row in rows:
            num_rows += 1
            yield row

    def report(problem: dict):
        problems.append(problem)
        tqdm.write(f"{problem['image'] or 'row ' + str(problem['row'])}: {problem['error']}", file=sys.stderr)

    try:
        sets = [load_words(data, streaming=True, **words_options(arguments)) for data in arguments.data]
        model, processor = load_reader(arguments.model, arguments.device)
        rows = counted(tqdm(chain.from_iterable(sets), unit=" words", disable=None))
        charset_size = CHARSET_SIZES[arguments.charset]
        sizes = arguments.batch_size, arguments.num_workers
        words = list(read_for_calibration(rows, model, processor, charset_size, *sizes, report))
        fitted, held_out = words[::2], words[1::2]
        temperature = round(fit_temperature(fitted), 4)
        before = calibration_errors(held_out, model.config.confidence_temperature)
        after = calibration_errors(held_out, temperature)
        if arguments.write:
            write_temperature(arguments.model, temperature)
    except (DatasetsError, ImportError, OSError, ValueError) as error:  # ImportError: no LMDB library
        sys.exit(str(error))

    uncounted = num_rows - len(words) - len(problems)
    if uncounted:
        print(f"not counted: {uncounted} words with empty or too long labels")
    print(f"confidence_temperature {temperature:.4f} (was {model.config.confidence_temperature:.4f})")
    print(f"fitted to {len(fitted)} words; expected calibration error of {len(held_out)} others in %, 10 bins:")
    for name in before:
        print(f"{name}: {percent(before[name])} before, {percent(after[name])} after")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
