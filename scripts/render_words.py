# SPDX-License-Identifier: Apache-2.0
"""Renders words as they look in photographs, into a folder of images with their labels or onto one sheet."""

import argparse
import sys
import time
from pathlib import Path

from clip4str_hf.configuration_clip4str import DEFAULT_CHARSET
from clip4str_hf.data.charset import read_charset, read_lines
from clip4str_hf.data.curriculum import WordCurriculum
from clip4str_hf.data.rendered_sets import contact_sheet, write_word_folder
from clip4str_hf.data.rendering import WordRenderer, find_complete_font


NUM_WORDS = 10_000
SHEET_WORDS = 100


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", help="a new folder of images with metadata.csv, or with --sheet an image file")
    parser.add_argument("--fonts", nargs="+", required=True, help="font files, or folders of them")
    parser.add_argument("--words", type=Path, help="file with a word on each line (default: random strings)")
    parser.add_argument("--charset", default=DEFAULT_CHARSET, help="characters that may occur, or @FILE of them")
    parser.add_argument("--backgrounds", help="folder of pictures without text")
    parser.add_argument("--random-share", type=float, default=0.15, help="share of random strings")
    parser.add_argument("--max-length", type=int, default=25, help="characters of the longest word")
    parser.add_argument("--num-words", type=int, help=f"(default: {NUM_WORDS})")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that render")
    parser.add_argument("--seed", type=int, default=0, help="other words and images (default: 0)")
    parser.add_argument("--sheet", action="store_true", help=f"draw {SHEET_WORDS} words onto one image")
    arguments = parser.parse_args()
    if arguments.sheet and (arguments.num_words is not None or arguments.num_workers):
        parser.error(f"--sheet draws {SHEET_WORDS} words in one process: leave --num-words and --num-workers out")
    if arguments.num_words is None:
        arguments.num_words = SHEET_WORDS if arguments.sheet else NUM_WORDS
    return arguments


def main():
    arguments = parse_arguments()
    try:
        renderer = WordRenderer(
            arguments.fonts,
            arguments.words and read_lines(arguments.words),
            read_charset(arguments.charset),
            arguments.backgrounds,
            max_length=arguments.max_length,
            random_share=arguments.random_share,
            seed=arguments.seed,
        )
        words = WordCurriculum(renderer, arguments.num_words, plain_until=0, difficult_from=0, seed=arguments.seed)
        if arguments.sheet:
            rows = [words[index] for index in range(len(words))]
            images, labels = ([row[column] for row in rows] for column in ("image", "text"))
            font = find_complete_font(arguments.fonts, set("".join(labels)))
            contact_sheet(images, labels, font=font).save(arguments.output)
            return
        start = time.perf_counter()
        write_word_folder(words, arguments.output, arguments.num_workers)
    except (OSError, ValueError) as error:
        sys.exit(f"{error}")
    seconds = time.perf_counter() - start
    print(f"{arguments.num_words} words in {seconds:.0f} s, {arguments.num_words / seconds:.0f} a second")


if __name__ == "__main__":
    main()
