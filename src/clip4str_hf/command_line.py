# SPDX-License-Identifier: Apache-2.0
"""Command-line arguments that several scripts share."""

import argparse

import torch

from . import default_checkpoint


def add_reader_arguments(parser: argparse.ArgumentParser):
    """Adds `--model` and `--device`, the reader and where it runs, to a parser."""
    parser.add_argument("--model", default=default_checkpoint(), help="folder or Hub id (default: the package's own)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where it runs")


def add_batch_arguments(parser: argparse.ArgumentParser):
    """Adds `--batch-size` and `--num-workers`, how many images are read and opened at once, to a parser."""
    parser.add_argument("--batch-size", type=int, default=32, help="images read at once (default: 32)")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that open images (default: threads)")


def add_words_arguments(parser: argparse.ArgumentParser, default_split: str):
    """
    Adds `--split`, `--name`, `--image-column` and `--text-column` to a parser.

    Args:
        parser (`argparse.ArgumentParser`): of a script that loads words.
        default_split (`str`): the split that is read if there are several and `--split` is not given.
    """
    parser.add_argument("--split", help=f"of the words (default: the only one, among several {default_split})")
    parser.add_argument("--name", help="configuration of a set of the Hub")
    parser.add_argument("--image-column", default="image", help="column of the images (default: image)")
    parser.add_argument("--text-column", help="column of the texts (default: text, or label)")
    parser.set_defaults(default_split=default_split)


def words_options(arguments: argparse.Namespace) -> dict:
    """
    The keyword arguments for [`load_words`], from the arguments that [`add_words_arguments`] added.

    Args:
        arguments (`argparse.Namespace`): the parsed arguments.
    """
    names = ("split", "default_split", "image_column", "text_column")
    options = {name: getattr(arguments, name) for name in names}
    return options if arguments.name is None else options | {"name": arguments.name}


def require_at_least(parser: argparse.ArgumentParser, arguments: argparse.Namespace, **least: int):
    """
    Ends a script with a message if a number on its command line is too small.

    Args:
        parser (`argparse.ArgumentParser`): of the script.
        arguments (`argparse.Namespace`): the parsed arguments; `None` stands for a number that was not given.
        least: the smallest value allowed for each number, by its name in `arguments`.
    """
    for name, smallest in least.items():
        value = getattr(arguments, name)
        if value is not None and value < smallest:
            parser.error(f"--{name.replace('_', '-')} {value} must be at least {smallest}")


__all__ = ["add_batch_arguments", "add_reader_arguments", "add_words_arguments", "require_at_least", "words_options"]
