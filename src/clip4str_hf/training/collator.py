# SPDX-License-Identifier: Apache-2.0
"""Turns rows of a dataset into inputs of the model."""

from dataclasses import dataclass

from transformers import BatchFeature

from ..configuration_clip4str import IGNORE_INDEX
from ..processing_clip4str import Clip4STRProcessor


@dataclass
class DataCollatorForTextRecognition:
    """
    Turns rows of a dataset, each an image and its text, into inputs of the model: `pixel_values`, and `labels` padded
    with -100. `Trainer` passes the columns on only with `TrainingArguments(remove_unused_columns=False)`.

    Args:
        processor ([`Clip4STRProcessor`]): the model's.
        image_column (`str`, defaults to `"image"`): column of the images, of any kind that the processor reads.
        text_column (`str`, *optional*, defaults to `"text"`): column of the texts, `None` if there is none.

    Raises:
        TypeError: if an image is of no kind that the processor reads.
        ValueError: if a column is missing, an image cannot be read or a text is refused.

    Example:

    ```python
    >>> trainer = Trainer(model, args, DataCollatorForTextRecognition(processor), train_dataset=words)
    ```"""

    processor: Clip4STRProcessor
    image_column: str = "image"
    text_column: str | None = "text"

    def __call__(self, rows: list[dict]) -> BatchFeature:
        images = self._column(rows, self.image_column)
        if self.text_column is None:
            return self.processor(images=images, return_tensors="pt")
        texts = self._column(rows, self.text_column)
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"The label of image {index} is {text!r}: a text is needed.")
        inputs = self.processor(images=images, text=texts, return_tensors="pt")
        inputs["labels"] = inputs["labels"].masked_fill(
            inputs["labels"] == self.processor.tokenizer.pad_token_id, IGNORE_INDEX
        )
        return inputs

    def _column(self, rows, name):
        for row in rows:
            if name not in row:
                raise ValueError(
                    f"No column {name!r} among {sorted(row)}: name it, and set remove_unused_columns=False."
                )
        return [row[name] for row in rows]


__all__ = ["DataCollatorForTextRecognition"]
