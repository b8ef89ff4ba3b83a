# SPDX-License-Identifier: Apache-2.0
"""
The benchmarks that scene text readers are compared on: their names, sizes and groups.

Names are those of the folders in PARSeq's archives (`Datasets.md` of its public code) and in CLIP4STR's; sizes are the
numbers of words that both count under 36 characters. CLIP4STR (arXiv 2305.14014) reports eleven of these data sets;
ICDAR 2013 and ICDAR 2015 have two versions each, the smaller a part of the larger, which makes thirteen. The versions
are never mixed.
"""

import os
from pathlib import Path

from .protocol import FIGURES


BENCHMARKS = {
    "IIIT5k": 3000,
    "SVT": 647,
    "IC13_857": 857,
    "IC13_1015": 1015,
    "IC15_1811": 1811,
    "IC15_2077": 2077,
    "SVTP": 645,
    "CUTE80": 288,
    "HOST": 2416,
    "WOST": 2416,
    "COCOv1.4": 9825,
    "ArT": 35149,
    "Uber": 80551,
}

# Regular, irregular, occluded and large sets as papers group them, each in its larger version.
GROUPS = {
    "regular": ("IIIT5k", "SVT", "IC13_1015"),
    "irregular": ("IC15_2077", "SVTP", "CUTE80"),
    "occluded": ("HOST", "WOST"),
    "large": ("COCOv1.4", "ArT", "Uber"),
    # PARSeq's two selections, the first of them also known as the six common benchmarks.
    "common_subsets": ("IIIT5k", "SVT", "IC13_857", "IC15_1811", "SVTP", "CUTE80"),
    "common_whole": ("IIIT5k", "SVT", "IC13_1015", "IC15_2077", "SVTP", "CUTE80"),
    # CLIP4STR's nine, in which its public code counts the words of IC15_1811 twice.
    "clip4str": ("IIIT5k", "SVT", "IC13_1015", "IC15_1811", "IC15_2077", "SVTP", "CUTE80", "HOST", "WOST"),
}


def find_benchmarks(root: str | os.PathLike) -> dict[str, Path | None]:
    """
    The benchmarks in a folder that holds a folder for each, such as `test` of PARSeq's archives.

    Args:
        root (`str` or `os.PathLike`): the folder.

    Returns:
        `dict`: for each of `BENCHMARKS` its folder, found by its name in any case, or `None`.

    Raises:
        ValueError: if there is no such folder, or none of the benchmarks in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root} is no folder.")
    folders = {folder.name.lower(): folder for folder in sorted(root.iterdir()) if folder.is_dir()}
    found = {name: folders.get(name.lower()) for name in BENCHMARKS}
    if not any(found.values()):
        raise ValueError(f"{root} holds none of the folders {', '.join(BENCHMARKS)}.")
    return found


def group_means(sets: dict[str, dict[str, dict] | None]) -> dict[str, dict]:
    """
    Means over the groups of benchmarks.

    Args:
        sets (`dict`):
            For each set, under each charset, what [`~WordTally.results`] gives; `None` for a set that is missing.

    Returns:
        `dict`: for each group whose sets are all named in `sets`, even if some are missing,
            - `sets` and `missing` (`list[str]`): its benchmarks, and those without figures;
            - `charsets` (`dict`): `None` if a set is missing; otherwise for each charset `words`, the figures weighted
              by words, as PARSeq's and CLIP4STR's `test.py` combine them, and in `mean_over_sets` the figures with the
              same weight for each set.
    """
    means = {}
    for group, names in GROUPS.items():
        if not sets.keys() >= set(names):
            continue
        found = {name: charsets for name in names if (charsets := sets[name]) and _has_words(charsets)}
        missing = [name for name in names if name not in found]
        charsets = None
        if not missing:
            charsets = {key: _mean([found[name][key] for name in names]) for key in found[names[0]]}
        means[group] = {"sets": list(names), "missing": missing, "charsets": charsets}
    return means


def _has_words(charsets: dict[str, dict]) -> bool:
    return all(figures["words"] for figures in charsets.values())


def _mean(sets: list[dict]) -> dict:
    words = sum(figures["words"] for figures in sets)
    by_words = {name: sum(figures[name] * figures["words"] for figures in sets) / words for name in FIGURES}
    by_sets = {name: sum(figures[name] for figures in sets) / len(sets) for name in FIGURES}
    return by_words | {"words": words, "mean_over_sets": by_sets}


__all__ = ["BENCHMARKS", "GROUPS", "find_benchmarks", "group_means"]
