# SPDX-License-Identifier: Apache-2.0
"""The metric of the scene text protocol for the `evaluate` library, which loads it from this file."""

import datasets
import evaluate

from .protocol import MAX_LABEL_LENGTH, score_words


DESCRIPTION = """
Word accuracy and 1 - NED (normalised edit distance) of read words, by the protocol of the scene text benchmarks: texts
are compared under 36 characters (lower-cased letters and digits), 62 (letters and digits) or 94 (and punctuation).
"""

INPUTS = """
Args:
    predictions (`list[str]`): what was read.
    references (`list[str]`): the labels.
    scores (`list[float]`, *optional*): the confidences, 0 to 1.
    charset_size (`int`, *optional*, defaults to 36): 36, 62, 94, or `None` to compare texts as they are.
    max_label_length (`int`, *optional*, defaults to 25): labels with more characters are not counted.

Returns:
    `word_accuracy` and `one_minus_ned`, with `scores` also `mean_confidence` (`float`, 0 to 1); `words`, the labels
    counted, and `empty_labels` and `long_labels`, those not counted (`int`).

Example:
    >>> metric = evaluate.load("src/clip4str_hf/metrics/word_accuracy.py")
    >>> metric.compute(predictions=["EXIT"], references=["Exit!"], charset_size=36)["word_accuracy"]
    1.0
"""

CITATION = """
@inproceedings{bautista2022parseq,
  title={Scene Text Recognition with Permuted Autoregressive Sequence Models},
  author={Bautista, Darwin and Atienza, Rowel},
  booktitle={European Conference on Computer Vision},
  pages={178--196},
  year={2022}
}
"""


class WordAccuracy(evaluate.Metric):
    """[`score_words`] as a metric: whole lists or `add_batch` by `add_batch`, in one process or in several."""

    def _info(self) -> evaluate.MetricInfo:
        texts = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(texts),
            reference_urls=["https://github.com/baudm/parseq", "https://arxiv.org/abs/2305.14014"],
        )

    def _compute(
        self, predictions, references, scores=None, charset_size=36, max_label_length=MAX_LABEL_LENGTH
    ) -> dict:
        return score_words(predictions, references, scores, charset_size, max_label_length)
