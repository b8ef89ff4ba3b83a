# SPDX-License-Identifier: Apache-2.0
"""Character sets and lists of words as they are given on a command line."""

import os
import unicodedata
from pathlib import Path


def read_lines(path: str | os.PathLike) -> list[str]:
    """
    The lines of a UTF-8 text file, without line ends and byte order mark.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8, save it as UTF-8: {error}") from error


def read_charset(argument: str) -> str:
    """
    A character set, given as its characters or, if it is long, as `@` and the name of a UTF-8 text file that holds it.
    Letters with accents are composed (NFC), the lines of the file are joined, and spaces in them count as characters.
    A set that contains `@` must not begin with it.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not UTF-8.
    """
    characters = "".join(read_lines(argument[1:])) if argument.startswith("@") else argument
    return unicodedata.normalize("NFC", characters)


__all__ = ["read_charset", "read_lines"]
