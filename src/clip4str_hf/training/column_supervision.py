# SPDX-License-Identifier: Apache-2.0
"""
A second loss for readers trained from scratch: each column of image patches has to predict the character drawn there.

Rendered words come with the positions of their letters. Through the decoder's own head the image tower learns about
each letter at once, and does not have to wait until the decoder has learnt where to look.
"""

from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import BatchFeature

from ..configuration_clip4str import IGNORE_INDEX
from ..modeling_clip4str import Clip4STRForSceneTextRecognition
from .collator import DataCollatorForTextRecognition
from .reader_trainer import ReaderTrainer


@dataclass
class DataCollatorForColumnSupervision(DataCollatorForTextRecognition):
    """
    Adds `column_labels` `(batch_size, num_columns)` to what [`DataCollatorForTextRecognition`] makes: the character's
    id where the middle of a letter lies in a column, -100 elsewhere and for words whose `letter_positions` are `None`,
    or that the image processor turns.

    Args:
        num_columns (`int`): number of columns of image patches.
    """

    num_columns: int = field(kw_only=True)

    def __call__(self, rows: list[dict]) -> BatchFeature:
        inputs = super().__call__(rows)
        if "letter_positions" not in rows[0]:  # validation words
            return inputs
        columns = torch.full((len(rows), self.num_columns), IGNORE_INDEX)
        for row, column, labels in zip(rows, columns, inputs["labels"]):
            positions = row["letter_positions"]
            if positions is not None and not self._is_turned(row[self.image_column]):
                middles = (torch.tensor(positions) * self.num_columns).long().clamp(max=self.num_columns - 1)
                column[middles] = labels[1 : len(positions) + 1]
        inputs["column_labels"] = columns
        return inputs

    def _is_turned(self, image) -> bool:
        """Whether the processor turns the image, so that the columns it is read in are not its own."""
        image = self.processor.image_processor.fetch_rgb(image)
        return self.processor.image_processor.is_turned(image.height, image.width)


def column_loss(
    model: Clip4STRForSceneTextRecognition, image_features: torch.Tensor, column_labels: torch.Tensor
) -> torch.Tensor:
    """
    Cross entropy of the characters that the visual decoder's head predicts from the mean of each column's features.

    Args:
        model ([`Clip4STRForSceneTextRecognition`]): the reader.
        image_features (`torch.Tensor` of shape `(batch_size, patches + 1, hidden_size)`): class token first.
        column_labels (`torch.Tensor` of shape `(batch_size, num_columns)`): character ids, -100 where there is none.

    Returns:
        `torch.Tensor`: a scalar, float32; 0 if no column has a character.
    """
    columns = image_features[:, 1:].unflatten(1, (-1, column_labels.shape[1])).mean(1)
    decoder = model.visual_decoder
    logits = decoder.head(decoder.norm(columns)).float()
    losses = nn.functional.cross_entropy(
        logits.flatten(0, 1), column_labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )
    return losses / (column_labels != IGNORE_INDEX).sum().clamp(min=1)


class ColumnSupervisedTrainer(ReaderTrainer):
    """[`ReaderTrainer`] that in training adds [`column_loss`] to the model's own if the batch has `column_labels`."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        column_labels = inputs.pop("column_labels", None)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if column_labels is not None and model.training:
            reader = self.accelerator.unwrap_model(model)
            loss = loss + column_loss(reader, outputs.image_features, column_labels)
        return (loss, outputs) if return_outputs else loss


__all__ = ["ColumnSupervisedTrainer", "DataCollatorForColumnSupervision", "column_loss"]
