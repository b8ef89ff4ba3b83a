# SPDX-License-Identifier: Apache-2.0
"""
Converts sets of words: LMDB folders, parquet, `datasets`, imagefolders and sets of the Hub into parquet, `datasets` or
LMDB. Words without a label or without an image that can be decoded are left out and named.
"""

import argparse
import sys

from datasets.exceptions import DatasetsError

from clip4str_hf import Clip4STRTokenizer, default_checkpoint
from clip4str_hf.command_line import add_words_arguments, require_at_least, words_options
from clip4str_hf.data.saving import FORMATS, check_folder, save_words
from clip4str_hf.data.words import clean_words, load_words


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", metavar="SOURCE", help="folder, parquet file or Hub id")
    parser.add_argument("output", metavar="OUTPUT", help="folder to make")
    parser.add_argument("--format", choices=FORMATS, default="parquet", help="of the output (default: parquet)")
    add_words_arguments(parser, "train")
    parser.add_argument(
        "--clean",
        nargs="?",
        const=default_checkpoint(),
        metavar="MODEL",
        help="clean labels up by the benchmarks' protocol and leave those out that this model cannot learn "
        "(default: the package's own; without --clean labels stay as they are)",
    )
    parser.add_argument("--shard-size", default="500MB", help="of files of parquet and datasets (default: 500MB)")
    parser.add_argument(
        "--num-proc", type=int, help="processes that check; the words then pass through the cache of datasets"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the words in OUTPUT")
    arguments = parser.parse_args()
    require_at_least(parser, arguments, num_proc=1)
    return arguments


def main() -> int:
    arguments = parse_arguments()
    report = None
    try:
        check_folder(arguments.output, arguments.overwrite)
        tokenizer = Clip4STRTokenizer.from_pretrained(arguments.clean) if arguments.clean else None
        words = load_words(
            arguments.source,
            # A single process needs no copy of the words between source and output.
            streaming=arguments.num_proc is None and arguments.format != "datasets",
            num_proc=arguments.num_proc,
            **words_options(arguments),
        )
        words, report = clean_words(words, tokenizer, num_proc=arguments.num_proc)
        count = save_words(words, arguments.output, arguments.format, arguments.shard_size, arguments.overwrite)
    except (DatasetsError, ImportError, OSError, ValueError) as error:
        reasons = f"\n{report}" if report is not None else ""
        sys.exit(f"{arguments.source} cannot be turned into {arguments.output}: {error}{reasons}")
    print(report)
    print(f"{count} words written to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
