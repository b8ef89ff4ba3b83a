# SPDX-License-Identifier: Apache-2.0
"""
Confidences that are right as often as they say: temperature scaling (Guo et al., "On Calibration of Modern Neural
Networks", ICML 2017), fitted to whole words.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rapidfuzz.distance import Levenshtein

from ..generation_clip4str import character_probabilities
from ..modeling_clip4str import Clip4STRForSceneTextRecognition
from ..processing_clip4str import Clip4STRProcessor
from ..reading import read_items
from .analysis import expected_calibration_error, reliability_bins
from .evaluation import image_path, open_word
from .protocol import MAX_LABEL_LENGTH, check_label, normalize


@dataclass
class WordLogits:
    """
    A word that was read, and whether it is right.

    Args:
        logits (`torch.FloatTensor` of shape `(characters + 1, num_classes)`):
            Scores before softmax and before any temperature, of the characters of the text and of its end, on the CPU.
        is_correct (`bool`): whether the text equals the label.
        characters (`list[bool]`): which characters of the text are right, in the best alignment with the label; `None`
            for those that are not compared, such as punctuation under 36 characters.
    """

    logits: torch.Tensor
    is_correct: bool
    characters: list[bool | None]


def fit_temperature(words: Sequence[WordLogits]) -> float:
    """
    The temperature at which the confidences of words tell best whether they are right: the one with the least cross
    entropy between a word's confidence and whether it is right. Dividing the logits by it changes no text.

    Args:
        words (`Sequence[WordLogits]`): words that the reader was not trained on, some hundreds at least.

    Returns:
        `float`: for [`Clip4STRConfig`]'s `confidence_temperature`; above 1 if the reader is overconfident.

    Raises:
        ValueError: if there are no words, or all are right, or none is: then there is no such temperature.
    """
    if not words:
        raise ValueError("There are no words: no label counts, or no image can be read.")
    num_correct = sum(word.is_correct for word in words)
    if num_correct in (0, len(words)):
        raise ValueError(f"{num_correct} of {len(words)} words are right: words of both kinds are needed.")
    flat = _Words(words)
    correct = torch.tensor([word.is_correct for word in words])
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        log_right = flat.log_confidences(log_temperature.exp()).clamp(max=-1e-12)
        log_wrong = torch.log(-torch.expm1(log_right))
        value = -torch.where(correct, log_right, log_wrong).mean()
        value.backward()
        return value

    optimizer.step(loss)
    return log_temperature.detach().exp().item()


def calibration_errors(words: Sequence[WordLogits], temperature: float = 1.0) -> dict[str, float | None]:
    """
    [`~metrics.analysis.expected_calibration_error`] of words and of their characters at a temperature.

    Returns:
        `dict`: `"words"` and `"characters"`, `None` where there are none.
    """
    flat, divisor = _Words(words), torch.tensor(temperature, dtype=torch.float64)
    characters = [right for word in words for right in word.characters if right is not None]
    sets = {
        "words": (flat.log_confidences(divisor), [word.is_correct for word in words]),
        "characters": (flat.log_probabilities(divisor)[flat.is_character], characters),
    }
    return {
        name: expected_calibration_error(reliability_bins(scores.exp().tolist(), correct))
        for name, (scores, correct) in sets.items()
    }


def read_for_calibration(
    words: Iterable[dict],
    model: Clip4STRForSceneTextRecognition,
    processor: Clip4STRProcessor,
    charset_size: int | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    report: Callable[[dict], None] = lambda problem: None,
) -> Iterator[WordLogits]:
    """
    Reads labelled words with the model's own generation options.

    Args:
        words (`Iterable[dict]`): rows with `image` and `text`, as in [`evaluate_words`].
        model, processor, batch_size, num_workers: as in [`evaluate_words`].
        charset_size (`int`, *optional*): 36, 62 or 94 characters that are compared, see [`normalize`]; with `None`
            labels are first cleaned up as for training, because no reader writes what it was not taught.
        report (`Callable`, *optional*):
            Called with each word whose image cannot be read, as a `dict` of `row` (`int`, from 0), `image` (`str`, its
            path, or `None`) and `error`.

    Returns:
        An iterator over [`WordLogits`], one for each word that was read and whose label counts.
    """
    post_process = partial(_texts_and_logits, processor, model.config.confidence_temperature)
    longest = max(MAX_LABEL_LENGTH, model.config.max_label_length)
    readings = read_items(words, open_word, model, processor, batch_size, num_workers, post_process)
    for row, (word, reading) in enumerate(readings):
        label = word["text"] or ""
        label, fault = check_label(label if charset_size else processor.tokenizer.clean(label), charset_size, longest)
        if "error" in reading:
            report({"row": row, "image": image_path(word["image"]), "error": reading["error"]})
        elif fault is None:
            right = _right_characters(reading["text"], label, charset_size)
            yield WordLogits(reading["logits"], normalize(reading["text"], charset_size) == label, right)


def write_temperature(folder: str | os.PathLike, temperature: float):
    """
    Writes a temperature into the `config.json` of a saved reader, and nothing else.

    Raises:
        ValueError: if there is no such file in the folder.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no folder with a config.json: save the reader into one first.")
    config = json.loads(path.read_text(encoding="utf-8")) | {"confidence_temperature": temperature}
    part = path.with_name("config.json.part")
    part.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)


class _Words:
    """All positions of all words in one tensor, in float64."""

    def __init__(self, words: Sequence[WordLogits]):
        logits = torch.cat([word.logits for word in words]).double()
        # The likeliest class has logit 0, so that its log probability is minus the log-sum-exp of all.
        self.logits = logits - logits.max(-1, keepdim=True).values
        self.index = torch.repeat_interleave(torch.tensor([len(word.logits) for word in words]))
        self.is_character = torch.tensor([flag for word in words for flag in _compared(word)])
        self.num_words = len(words)

    def log_probabilities(self, temperature: torch.Tensor) -> torch.Tensor:
        # Clamped, as rounding might put them above 0.
        return -(self.logits / temperature).logsumexp(-1).clamp(min=0)

    def log_confidences(self, temperature: torch.Tensor) -> torch.Tensor:
        log_probabilities = self.log_probabilities(temperature)
        return log_probabilities.new_zeros(self.num_words).index_add(0, self.index, log_probabilities)


def _texts_and_logits(processor, temperature, outputs) -> list[dict]:
    logits = outputs.logits.float().cpu() * temperature
    _, _, in_text = character_probabilities(logits)
    words = processor.post_process_text_recognition(outputs)
    return [word | {"logits": row[counts]} for word, row, counts in zip(words, logits, in_text)]


def _compared(word: WordLogits) -> list[bool]:
    """Which positions of a word are characters that are compared; the end is not."""
    flags = [right is not None for right in word.characters]
    return flags + [False] * (len(word.logits) - len(flags))


def _right_characters(text: str, label: str, charset_size: int | None) -> list[bool | None]:
    """Whether the best alignment finds each character of the text in the label; `None` if it is not compared."""
    characters = [normalize(character, charset_size) for character in text]
    right = [False if character else None for character in characters]
    for block in Levenshtein.opcodes(characters, list(label)):
        if block.tag == "equal":
            right[block.src_start : block.src_end] = [True] * (block.src_end - block.src_start)
    return right


__all__ = [
    "WordLogits",
    "calibration_errors",
    "fit_temperature",
    "read_for_calibration",
    "write_temperature",
]
