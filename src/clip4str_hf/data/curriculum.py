# SPDX-License-Identifier: Apache-2.0
"""Words to train a reader from scratch: easy rendered ones first, then difficult and real ones."""

import numpy as np
from datasets import Dataset
from torch.utils import data

from .augmentation import TextAugmentation
from .rendering import WordRenderer


PLAIN_LENGTH = 7


class WordCurriculum(data.Dataset):
    """
    Words for a single pass in order, with `train_sampling_strategy="sequential"`. Row `i` is the same in every process
    and in every run, so that a run can resume where it stopped.

    A small reader that starts from scratch learns nothing from difficult words (its loss stays at what the letters'
    frequencies alone give), and from easy words of a language it may learn the language instead. So the curriculum
    starts with easy images of short random strings, and moves steadily to difficult images of words, and to real ones.

    Args:
        renderer ([`WordRenderer`]): draws the words.
        num_words (`int`): rows.
        real_words (`Dataset`, *optional*): real words, with the columns `image` and `text`.
        real_share (`float`, *optional*, defaults to 0.4): share of real words from `difficult_from` on.
        plain_until (`float`, *optional*, defaults to 0.15): share of the pass that has easy words only.
        difficult_from (`float`, *optional*, defaults to 0.4): share of the pass after which words are as difficult as
            they get. With 0 there is no curriculum.
        augmentation ([`TextAugmentation`], *optional*): applied to the real words.
        seed (`int`, *optional*, defaults to 0): decides which words are real, and which real ones.

    Raises:
        ValueError: if a number is out of range.

    Example:

    ```python
    >>> curriculum = WordCurriculum(WordRenderer(["/usr/share/fonts"]), num_words=500_000)
    >>> curriculum[0]  # {"image": ..., "text": ..., "letter_positions": ...}
    ```"""

    def __init__(
        self,
        renderer: WordRenderer,
        num_words: int,
        real_words: Dataset | None = None,
        real_share: float = 0.4,
        plain_until: float = 0.15,
        difficult_from: float = 0.4,
        augmentation: TextAugmentation | None = None,
        seed: int = 0,
    ):
        if num_words < 1:
            raise ValueError(f"num_words={num_words} must be at least 1.")
        if real_words is not None and not len(real_words):
            raise ValueError("real_words holds no words.")
        if not 0 <= real_share <= 1:
            raise ValueError(f"real_share={real_share} must be from 0 to 1.")
        if not 0 <= plain_until <= difficult_from <= 1:
            raise ValueError(f"0 <= plain_until={plain_until} <= difficult_from={difficult_from} <= 1 must hold.")
        self.renderer = renderer
        self.num_words = num_words
        self.real_words = real_words
        self.real_share = real_share if real_words is not None else 0.0
        self.plain_until = plain_until
        self.difficult_from = difficult_from
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return self.num_words

    def difficulty(self, index: int) -> float:
        """How difficult the words around a row are, from 0 to 1."""
        progress = index / self.num_words
        if progress >= self.difficult_from:
            return 1.0
        if progress <= self.plain_until:
            return 0.0
        return (progress - self.plain_until) / (self.difficult_from - self.plain_until)

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.num_words:
            raise IndexError(f"Row {index} of {self.num_words}.")
        generator = np.random.default_rng((self.seed, index, 1))  # other numbers than the renderer's for this row
        difficulty = self.difficulty(index)
        if generator.random() < self.real_share * difficulty:
            return self._real_word(generator)
        word = self.renderer.render(
            index,
            difficulty * generator.uniform(0.3, 1.0),
            max_length=round(PLAIN_LENGTH + difficulty * (self.renderer.max_length - PLAIN_LENGTH)),
            random_share=1 - difficulty * (1 - self.renderer.random_share),
        )
        return {"image": word.image, "text": word.text, "letter_positions": word.letter_positions}

    def _real_word(self, generator):
        row = self.real_words[int(generator.integers(len(self.real_words)))]
        image = row["image"] if self.augmentation is None else self.augmentation(row["image"], generator)
        return {"image": image, "text": row["text"], "letter_positions": None}


__all__ = ["WordCurriculum"]
