# SPDX-License-Identifier: Apache-2.0
"""Opens a web page that reads images: text, confidence, what each branch read and where it looked."""

import argparse
import sys
from pathlib import Path

from transformers.utils import logging

from clip4str_hf.command_line import add_reader_arguments
from clip4str_hf.reading import find_images, load_reader


EXAMPLES = Path(__file__).parents[1] / "tests" / "data" / "words"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_reader_arguments(parser)
    parser.add_argument("--server-name", default="127.0.0.1", help="0.0.0.0 to be reached from other machines")
    parser.add_argument("--port", type=int, help="(default: the first free one from 7860)")
    parser.add_argument("--share", action="store_true", help="a public address, through Gradio's servers")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        from clip4str_hf.demo import build_page, launch
    except ModuleNotFoundError as error:
        sys.exit(f'{error}: the page needs `pip install -c constraints.txt ".[demo]"`.')
    try:
        model, processor = load_reader(arguments.model, arguments.device, attn_implementation="eager")
    except ValueError as error:
        sys.exit(str(error))
    examples = [str(path) for path in find_images(EXAMPLES)] if EXAMPLES.is_dir() else []
    try:
        launch(
            build_page(model, processor, examples),
            server_name=arguments.server_name,
            server_port=arguments.port,
            share=arguments.share,
        )
    except OSError as error:  # the port is taken
        sys.exit(str(error))


if __name__ == "__main__":
    main()
