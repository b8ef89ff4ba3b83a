# SPDX-License-Identifier: Apache-2.0
"""Which words of a data set are meant, on the command lines of the scripts."""

import argparse


def add_words_arguments(parser: argparse.ArgumentParser, default_split: str):
    """
    Adds `--split`, `--name`, `--image-column` and `--text-column` to a parser.

    Args:
        parser (`argparse.ArgumentParser`): of a script that loads words.
        default_split (`str`): which of several splits is meant by none.
    """
    parser.add_argument("--split", help=f"of the words (default: the only one, among several {default_split})")
    parser.add_argument("--name", help="configuration of a set of the Hub")
    parser.add_argument("--image-column", default="image", help="column of the images (default: image)")
    parser.add_argument("--text-column", help="column of the texts (default: text, or label)")
    parser.set_defaults(default_split=default_split)


def words_options(arguments: argparse.Namespace) -> dict:
    """
    What [`load_words`] takes, of the arguments that [`add_words_arguments`] added.

    Args:
        arguments (`argparse.Namespace`): as the parser gives them.
    """
    names = ("split", "default_split", "image_column", "text_column")
    options = {name: getattr(arguments, name) for name in names}
    return options if arguments.name is None else options | {"name": arguments.name}


__all__ = ["add_words_arguments", "words_options"]
