# SPDX-License-Identifier: Apache-2.0
"""Reads the words in images and prints a line for each: the file, the text and the confidence."""

import argparse
import json
import os
import sys
from collections.abc import Iterable
from itertools import chain
from typing import Any

from tqdm import tqdm
from transformers.utils import logging

from clip4str_hf.command_line import add_batch_arguments, add_reader_arguments, require_at_least
from clip4str_hf.reading import find_images, load_reader, read_images


# Of a file name, so that every answer is one line of three columns.
ESCAPES = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", metavar="IMAGE_OR_FOLDER", help="folders are searched for images")
    parser.add_argument(
        "--files-from",
        metavar="LIST",
        help="a file with a path on each line, - is stdin; answers come two batches behind it",
    )
    add_reader_arguments(parser)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="(default: the model's own)")
    add_batch_arguments(parser)
    parser.add_argument(
        "--rotate", action="store_true", help="read tall images turned to either side too, and keep the surest answer"
    )
    parser.add_argument("--json", action="store_true", help="JSON lines with file, text, score and char_scores")
    arguments = parser.parse_args()
    if not arguments.paths and arguments.files_from is None:
        parser.error("give images, folders or --files-from")
    require_at_least(parser, arguments, batch_size=1, num_workers=0)
    return arguments


def open_list(name: str | None) -> Iterable[str]:
    """A list of files, opened at once; without a name it is empty."""
    if name is None:
        return ()
    # Names may hold any bytes, also a carriage return; a list may begin with a byte order mark.
    options: dict[str, Any] = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": "\n"}
    if name == "-":
        sys.stdin.reconfigure(**options)
        return sys.stdin
    return open(name, **options)


def main() -> int:
    arguments = parse_arguments()
    # Whatever bytes a file name is made of are printed as they are.
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    files, problems = [], []
    for path in arguments.paths:
        try:
            files += find_images(path)
        except OSError as error:
            problems.append(str(error))
    for problem in problems:
        print(problem, file=sys.stderr)

    if not files and arguments.files_from is None:
        return 1
    try:
        listed = open_list(arguments.files_from)
        reader = load_reader(arguments.model, arguments.device, dtype=arguments.dtype)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    options = {"rotate_vertical": arguments.rotate}
    options |= {"batch_size": arguments.batch_size, "num_workers": arguments.num_workers}
    paths = (line.rstrip("\n").removesuffix("\r") for line in listed)
    readings = read_images(chain(files, filter(None, paths)), *reader, **options)
    total = len(files) if arguments.files_from is None else None
    # On a terminal the answers themselves show the progress.
    for reading in tqdm(readings, total=total, disable=sys.stdout.isatty() or None):
        if "error" in reading:
            problems.append(reading["error"])
            tqdm.write(f"{reading['file']}: {reading['error']}", file=sys.stderr)
        elif arguments.json:
            print(json.dumps(reading), flush=True)
        else:
            name = reading["file"].translate(ESCAPES)
            print(name, reading["text"], f"{reading['score']:.4f}", sep="\t", flush=True)
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # whoever reads the output has had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
