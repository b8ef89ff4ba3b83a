# SPDX-License-Identifier: Apache-2.0
"""
Publishes a reader on the Hub, with its code and its card, in one commit.

First it is checked: all weights are there, a sample image is read in a fresh interpreter without this package, and the
card is complete. Exit status: 0 if it was pushed (or could be, with --dry-run), 1 if not, 2 for wrong arguments.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from transformers.utils import logging

from clip4str_hf import Clip4STRConfig, default_checkpoint
from clip4str_hf.metrics.model_index import load_card
from clip4str_hf.sharing import (
    check_destination,
    complete_copy,
    draw_sample,
    list_files,
    problems_of_card,
    push,
    read_as_stranger,
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repo_id", metavar="OWNER/NAME", help="repository on the Hub")
    parser.add_argument(
        "--model", type=Path, default=default_checkpoint(), help="folder of the reader (default: the package's own)"
    )
    parser.add_argument("--card", type=Path, help="its model card (default: README.md in that folder)")
    parser.add_argument("--image", type=Path, help="sample to read (default: a drawn word)")
    parser.add_argument("--private", action="store_true", help="only you see the repository")
    parser.add_argument("--revision", metavar="BRANCH", help="branch, made if need be (default: main)")
    parser.add_argument("--commit-message", default="Upload reader", help="of the one commit")
    parser.add_argument("--dry-run", action="store_true", help="check and list, upload nothing")
    arguments = parser.parse_args()
    for path in (arguments.model, arguments.image):
        if path is not None and not path.exists():
            parser.error(f"there is no {path}")
    try:
        check_destination(arguments.repo_id)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def check(arguments: argparse.Namespace, copy: Path):
    """Writes what would be uploaded into `copy`, and raises `ValueError` if it is not fit for that."""
    complete_copy(arguments.model, copy, arguments.repo_id, arguments.card or arguments.model / "README.md")
    problems = problems_of_card(load_card(copy / "README.md"))
    if problems:
        raise ValueError("\n  ".join(["The card is not complete:", *problems]))
    with tempfile.TemporaryDirectory() as folder:
        image = arguments.image
        if image is None:
            image = Path(folder, "sample.png")
            draw_sample(image, Clip4STRConfig.from_pretrained(copy).charset)
        reading = read_as_stranger(copy, image)
    print(f"{image.name} reads {reading['generated_text']!r}, confidence {reading['score']:.4f}")


def main():
    arguments = parse_arguments()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        try:
            check(arguments, Path(folder))
            files = list_files(folder)
            for file in files:
                print(f"{file.stat().st_size:>13,}  {file.name}")
            print(f"{sum(file.stat().st_size for file in files):>13,}  bytes in {len(files)} files")
            if arguments.dry_run:
                print(f"Fit for {arguments.repo_id}; nothing was uploaded.")
                return
            options = (arguments.private, arguments.revision, arguments.commit_message)
            print(f"Pushed: {push(folder, arguments.repo_id, *options).commit_url}")
        except (OSError, ValueError) as error:
            sys.exit(f"{arguments.repo_id} was not pushed. {error}")


if __name__ == "__main__":
    main()
