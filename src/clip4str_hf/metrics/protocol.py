# SPDX-License-Identifier: Apache-2.0
"""
The protocol of the scene text benchmarks: which words count, and word accuracy, 1 - NED and confidence over them.

It is that of PARSeq (Bautista and Atienza, "Scene Text Recognition with Permuted Autoregressive Sequence Models", ECCV
2022; `LmdbDataset`, `CharsetAdapter` and `test.py` of its public code), by which CLIP4STR (arXiv 2305.14014) is
evaluated too:

- White space and what NFKD does not turn into ASCII are removed from a label. It is not counted if it is then longer
  than 25 characters.
- Label and prediction are compared under 36 characters (`0-9a-z`, after lower-casing), 62 (`0-9a-zA-Z`) or 94 (and
  ASCII punctuation); everything else is removed from both. A label of which nothing is left is not counted.
- Word accuracy is the share of predictions equal to their labels. 1 - NED is one minus the mean of edit distance /
  length of the longer of both (ICDAR 2019's normalised edit distance). All means are over the words counted.

PARSeq applies the rules for white space and NFKD to labels only; here they apply to predictions as well, which changes
nothing for a reader of ASCII characters. PARSeq reads images as they lie, here their EXIF orientation is followed.
"""

import string
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rapidfuzz.distance import Levenshtein


if TYPE_CHECKING:
    # Never run: `evaluate` copies this file to where it does not find the others.
    from .analysis import WordAnalysis


MAX_LABEL_LENGTH = 25
CHARSETS = {
    36: frozenset(string.digits + string.ascii_lowercase),
    62: frozenset(string.digits + string.ascii_letters),
    94: frozenset(string.digits + string.ascii_letters + string.punctuation),
}
FIGURES = ("word_accuracy", "one_minus_ned", "mean_confidence")


def normalize(text: str, charset_size: int | None = 36) -> str:
    """
    The part of a label or prediction that is compared.

    Args:
        text (`str`): the text.
        charset_size (`int`, *optional*, defaults to 36):
            36 (lower-cased letters and digits), 62 (letters and digits) or 94 (and punctuation). With `None` the text
            stays as it is, for spaces and for scripts of which these would leave nothing; only accents are composed
            (NFC), as there are two ways to write the same letter.

    Raises:
        ValueError: if there is no such charset.

    Example:

    ```python
    >>> [normalize("Café No.5", size) for size in (36, 62, 94, None)]
    ['cafeno5', 'CafeNo5', 'CafeNo.5', 'Café No.5']
    ```"""
    _check(charset_size)
    if charset_size is None:
        return unicodedata.normalize("NFC", text)
    text = _to_ascii(text)
    charset = CHARSETS[charset_size]
    return "".join(char for char in (text.lower() if charset_size == 36 else text) if char in charset)


def check_label(
    label: str | None, charset_size: int | None = 36, max_label_length: int = MAX_LABEL_LENGTH
) -> tuple[str, str | None]:
    """
    The part of a label that is compared, and why it does not count: `"long"`, if it has more than `max_label_length`
    characters, or `"empty"`, if the charset leaves nothing of it; `None` if it counts. Arguments as in [`WordTally`].
    """
    label = label or ""
    reference = normalize(label, charset_size)
    if len(reference if charset_size is None else _to_ascii(label)) > max_label_length:
        return reference, "long"
    return reference, None if reference else "empty"


@dataclass
class WordTally:
    """
    Adds words up, by the protocol and, without an analysis, in constant memory.

    Args:
        charset_size (`int`, *optional*, defaults to 36):
            The characters under which texts are compared, see [`normalize`].
        max_label_length (`int`, *optional*, defaults to 25):
            Labels with more characters are not counted.
        analysis ([`WordAnalysis`], *optional*):
            Also receives each word that is counted; it keeps some numbers of each.

    Attributes:
        words (`int`): words counted.
        unreadable (`int`): words whose label counts but that were not read, because their image could not be opened.
        empty_labels, long_labels (`int`): words not counted because of their label.

    Raises:
        ValueError: if there is no such charset.
    """

    charset_size: int | None = 36
    max_label_length: int = MAX_LABEL_LENGTH
    analysis: "WordAnalysis | None" = None
    words: int = field(default=0, init=False)
    unreadable: int = field(default=0, init=False)
    empty_labels: int = field(default=0, init=False)
    long_labels: int = field(default=0, init=False)
    _correct: int = field(default=0, init=False, repr=False)
    _distance: float = field(default=0.0, init=False, repr=False)
    _confidence: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self):
        _check(self.charset_size)

    def add(self, prediction: str | None, label: str | None, score: float = 0.0) -> bool:
        """
        Adds a word.

        Args:
            prediction (`str`, *optional*): what was read, `None` if the image could not be opened.
            label (`str`, *optional*): what is there; `None` is an empty label.
            score (`float`, defaults to 0): the confidence, 0 to 1.

        Returns:
            `bool`: whether the word counts and is misread.
        """
        reference, fault = check_label(label, self.charset_size, self.max_label_length)
        if fault == "long":
            self.long_labels += 1
        elif fault == "empty":
            self.empty_labels += 1
        elif prediction is None:
            self.unreadable += 1
        else:
            prediction = normalize(prediction, self.charset_size)
            self.words += 1
            self._correct += prediction == reference
            self._distance += Levenshtein.normalized_distance(prediction, reference)
            self._confidence += score
            if self.analysis is not None:
                self.analysis.add(prediction, reference, score)
            return prediction != reference
        return False

    def results(self) -> dict:
        """
        The figures so far.

        Returns:
            `dict`: `word_accuracy`, `one_minus_ned` and `mean_confidence` (`float`, 0 to 1, or `None` without words),
            `words`, `unreadable`, `empty_labels` and `long_labels` (`int`); with an analysis also `analysis` (`dict`),
            what [`~WordAnalysis.results`] gives.
        """
        means = dict.fromkeys(FIGURES)
        if self.words:
            sums = (self._correct, self.words - self._distance, self._confidence)
            means = {name: total / self.words for name, total in zip(means, sums)}
        counts = ("words", "unreadable", "empty_labels", "long_labels")
        results = means | {name: getattr(self, name) for name in counts}
        return results if self.analysis is None else results | {"analysis": self.analysis.results()}


def score_words(
    predictions: Iterable[str],
    references: Iterable[str],
    scores: Iterable[float] | None = None,
    charset_size: int | None = 36,
    max_label_length: int = MAX_LABEL_LENGTH,
) -> dict:
    """
    Word accuracy, 1 - NED and mean confidence of lists of texts.

    Args:
        predictions (`Iterable[str]`): what was read.
        references (`Iterable[str]`): the labels, one for each prediction.
        scores (`Iterable[float]`, *optional*): the confidences, 0 to 1, one for each prediction.
        charset_size (`int`, *optional*, defaults to 36): 36, 62 or 94 characters, or `None`, see [`normalize`].
        max_label_length (`int`, *optional*, defaults to 25): labels with more characters are not counted.

    Returns:
        `dict`: `word_accuracy` and `one_minus_ned`, with `scores` also `mean_confidence` (`float`, 0 to 1); `words`,
        the labels counted, and `empty_labels` and `long_labels`, those not counted (`int`).

    Raises:
        ValueError: if there is no such charset, the lists differ in length, no label counts or a prediction is `None`.

    Example:

    ```python
    >>> score_words(["EXIT", "Bahnof"], ["Exit!", "Bahnhof"])["word_accuracy"]
    0.5
    ```"""
    predictions, references = list(predictions), list(references)
    confidences = [0.0] * len(predictions) if scores is None else list(scores)
    if not len(predictions) == len(references) == len(confidences):
        raise ValueError(
            f"{len(predictions)} predictions, {len(references)} references and {len(confidences)} scores do not go "
            "together."
        )
    tally = WordTally(charset_size, max_label_length)
    for word in zip(predictions, references, confidences):
        tally.add(*word)
    if not tally.words + tally.unreadable:
        raise ValueError(
            f"None of the {len(references)} references counts under charset_size={charset_size}: "
            f"{tally.empty_labels} are empty, {tally.long_labels} longer than {max_label_length} characters."
        )
    if tally.unreadable:
        raise ValueError(f"{tally.unreadable} predictions are None: an empty text stands for what was not read.")
    results = tally.results()
    del results["unreadable"]
    if scores is None:
        del results["mean_confidence"]
    return results


def word_metrics(processor, charset_size: int | None = 36) -> Callable:
    """
    A `compute_metrics` for `Seq2SeqTrainer` with `Seq2SeqTrainingArguments(predict_with_generate=True)`.

    Args:
        processor ([`Clip4STRProcessor`]): the model's.
        charset_size (`int`, *optional*, defaults to 36): 36, 62 or 94 characters, or `None`, see [`normalize`].

    Returns:
        `Callable`: turns an `EvalPrediction` of ids, -100 where there is none, into `word_accuracy` and
        `one_minus_ned` (`float`, 0 to 1), batch by batch with `batch_eval_metrics=True`. Labels as long as the
        processor accepts count, even beyond 25 characters.

    Raises:
        ValueError: if there is no such charset; when called, if the predictions are not ids or no label counts.

    Example:

    ```python
    >>> trainer = Seq2SeqTrainer(model, args, collator, train, validation, compute_metrics=word_metrics(processor))
    ```"""
    _check(charset_size)
    longest = max(MAX_LABEL_LENGTH, processor.tokenizer.max_label_length)

    texts, labels = [], []

    def compute_metrics(prediction, compute_result: bool = True) -> dict[str, float]:
        texts.extend(_decode(processor, prediction.predictions))
        labels.extend(_decode(processor, prediction.label_ids))
        if not compute_result:
            return {}
        try:
            results = score_words(texts, labels, charset_size=charset_size, max_label_length=longest)
        finally:
            texts.clear()
            labels.clear()
        return {name: results[name] for name in ("word_accuracy", "one_minus_ned")}

    return compute_metrics


def _decode(processor, ids) -> list[str]:
    """The texts of an array of ids, or of a list of arrays (`eval_do_concat_batches=False`)."""
    batches = ids if isinstance(ids, list) else [ids]
    if any(getattr(batch, "ndim", None) != 2 for batch in batches):
        raise ValueError(
            "Predictions must be ids of shape (words, length), which "
            "Seq2SeqTrainingArguments(predict_with_generate=True) makes."
        )
    return [text for batch in batches for text in processor.batch_decode(batch)]


def metric_script() -> str:
    """Path of the metric of this protocol, for `evaluate.load`."""
    return str(Path(__file__).with_name("word_accuracy.py"))


def _check(charset_size: int | None):
    if charset_size is not None and charset_size not in CHARSETS:
        raise ValueError(f"charset_size={charset_size} must be one of {[*CHARSETS, None]}.")


def _to_ascii(text: str) -> str:
    text = "".join(text.split())
    return text if text.isascii() else unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


__all__ = [
    "CHARSETS",
    "FIGURES",
    "MAX_LABEL_LENGTH",
    "WordTally",
    "check_label",
    "metric_script",
    "normalize",
    "score_words",
    "word_metrics",
]
