# SPDX-License-Identifier: Apache-2.0
"""Beyond one number: accuracy by word length, confusions of characters, and how far confidences can be trusted."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein


# Stands for a character that is not there, in pairs of label and prediction.
NOTHING = ""


class LengthBin(NamedTuple):
    """Words with labels of `length` characters, and how many of them are right."""

    length: int
    words: int
    correct: int


class ReliabilityBin(NamedTuple):
    """
    Words with a confidence above `low` and up to `high` (in the first bin also equal to `low`): how many, the share of
    them that is right, and their mean confidence; the latter two are `None` if there are no words.
    """

    low: float
    high: float
    words: int
    accuracy: float | None
    mean_confidence: float | None


@dataclass
class WordAnalysis:
    """
    Keeps only what an analysis needs: each word's length, whether it is right and its confidence, and how often each
    character was read as which other.
    """

    lengths: list[int] = field(default_factory=list, init=False)
    correct: list[bool] = field(default_factory=list, init=False)
    confidences: list[float] = field(default_factory=list, init=False)
    confusions: Counter = field(default_factory=Counter, init=False)

    def add(self, prediction: str, label: str, confidence: float):
        """
        Adds a word.

        Args:
            prediction (`str`): what was read, in the form that is compared, see [`normalize`].
            label (`str`): what is there, in the form that is compared.
            confidence (`float`): of the prediction, 0 to 1.
        """
        self.lengths.append(len(label))
        self.correct.append(prediction == label)
        self.confidences.append(confidence)
        self.confusions.update(confused_characters(prediction, label))

    def results(self) -> dict:
        """
        The figures so far, ready for JSON.

        Returns:
            `dict`: `accuracy_by_length` (`list[dict]`, see [`LengthBin`]); `confusions` (`list[dict]`, `label`,
            `prediction` and `count`, the most frequent first, an empty text where there is no character);
            `reliability` (`list[dict]`, see [`ReliabilityBin`]); `expected_calibration_error` (`float`, 0 to 1,
            `None` without words).
        """
        reliability = reliability_bins(self.confidences, self.correct)
        return {
            "accuracy_by_length": [row._asdict() for row in accuracy_by_length(self.lengths, self.correct)],
            "confusions": [
                {"label": label, "prediction": prediction, "count": count}
                for (label, prediction), count in sorted(self.confusions.items(), key=lambda item: (-item[1], item[0]))
            ],
            "reliability": [row._asdict() for row in reliability],
            "expected_calibration_error": expected_calibration_error(reliability),
        }


def confused_characters(prediction: str, label: str) -> list[tuple[str, str]]:
    """
    The characters in which a prediction differs from its label, aligned by the fewest edits.

    Args:
        prediction (`str`): what was read.
        label (`str`): what is there.

    Returns:
        `list[tuple[str, str]]`: character of the label and of the prediction; one of them is empty where a character
        was added or left out. Of several alignments with equally few edits, it is the one that rapidfuzz gives.

    Example:

    ```python
    >>> confused_characters("Pharnacys", "Pharmacy")
    [('m', 'n'), ('', 's')]
    ```"""
    return [
        (
            NOTHING if edit.tag == "insert" else label[edit.src_pos],
            NOTHING if edit.tag == "delete" else prediction[edit.dest_pos],
        )
        for edit in Levenshtein.editops(label, prediction)
    ]


def accuracy_by_length(lengths: Iterable[int], correct: Iterable[bool]) -> list[LengthBin]:
    """
    Words counted by the length of their labels, the shortest first.

    Args:
        lengths (`Iterable[int]`): of each word, in characters.
        correct (`Iterable[bool]`): whether it was read right.
    """
    words, right = Counter(), Counter()
    for length, is_right in zip(lengths, correct, strict=True):
        words[length] += 1
        right[length] += bool(is_right)
    return [LengthBin(length, words[length], right[length]) for length in sorted(words)]


def reliability_bins(confidences: Sequence[float], correct: Sequence[bool], bins: int = 10) -> list[ReliabilityBin]:
    """
    The reliability diagram in numbers: words in bins of equal width by their confidence (Guo et al., "On Calibration
    of Modern Neural Networks", ICML 2017, section 2).

    Args:
        confidences (`Sequence[float]`): of each word, 0 to 1.
        correct (`Sequence[bool]`): whether it was read right.
        bins (`int`, *optional*, defaults to 10): number of bins.

    Raises:
        ValueError: if `bins` is below 1, a confidence is not 0 to 1 or the two lengths differ.
    """
    if bins < 1:
        raise ValueError(f"bins={bins} must be at least 1.")
    words, right, sums = [0] * bins, [0] * bins, [0.0] * bins
    edges = [index / bins for index in range(bins + 1)]
    for confidence, is_right in zip(confidences, correct, strict=True):
        if not 0 <= confidence <= 1:
            raise ValueError(f"A confidence of {confidence} does not lie in 0 to 1.")
        index = max(0, bisect_left(edges, confidence) - 1)
        words[index] += 1
        right[index] += bool(is_right)
        sums[index] += confidence
    return [
        ReliabilityBin(
            low, high, count, right[index] / count if count else None, sums[index] / count if count else None
        )
        for index, (low, high, count) in enumerate(zip(edges, edges[1:], words))
    ]


def expected_calibration_error(bins: Iterable[ReliabilityBin]) -> float | None:
    """
    How far confidences are from the share of words that is right, 0 to 1: the mean over words of the gap between the
    accuracy and the mean confidence of their bin (Guo et al., 2017, equation 3); `None` without words.

    Args:
        bins (`Iterable[ReliabilityBin]`): of [`reliability_bins`].
    """
    gaps, total = 0.0, 0
    for row in bins:
        if row.accuracy is not None and row.mean_confidence is not None:
            gaps += row.words * abs(row.accuracy - row.mean_confidence)
            total += row.words
    return gaps / total if total else None


__all__ = [
    "LengthBin",
    "ReliabilityBin",
    "WordAnalysis",
    "accuracy_by_length",
    "confused_characters",
    "expected_calibration_error",
    "reliability_bins",
]
