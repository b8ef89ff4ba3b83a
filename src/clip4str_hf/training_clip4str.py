# SPDX-License-Identifier: Apache-2.0
"""What the paper's training recipe adds to transformers' `Trainer`."""

from dataclasses import dataclass

from torch import nn
from transformers import BatchFeature

from .modeling_clip4str import IGNORE_INDEX, Clip4STRForSceneTextRecognition
from .processing_clip4str import Clip4STRProcessor


@dataclass
class DataCollatorForTextRecognition:
    """
    Makes rows of a dataset, an image and its text each, the inputs of the model: `pixel_values`, and `labels` padded
    with -100. `Trainer` hands the columns over with `TrainingArguments(remove_unused_columns=False)`.

    Args:
        processor ([`Clip4STRProcessor`]): the model's.
        image_column (`str`, defaults to `"image"`): column of the images, of any kind that the processor reads.
        text_column (`str`, *optional*, defaults to `"text"`): column of the texts; `None` for images without.

    Raises:
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
        inputs = self.processor(images=images, text=self._column(rows, self.text_column), return_tensors="pt")
        inputs["labels"] = inputs["labels"].masked_fill(
            inputs["labels"] == self.processor.tokenizer.pad_token_id, IGNORE_INDEX
        )
        return inputs

    def _column(self, rows, name):
        if name not in rows[0]:
            raise ValueError(
                f"No column {name!r} among {sorted(rows[0])}: name it, and set remove_unused_columns=False."
            )
        return [row[name] for row in rows]


def optimizer_groups(
    model: Clip4STRForSceneTextRecognition,
    learning_rate: float = 8.4e-5,
    weight_decay: float = 0.2,
    decoder_rate_factor: float = 19.0,
) -> list[dict]:
    """
    Parameter groups of the paper (arXiv 2305.14014, 4.1): decoders learn 19 times as fast as CLIP's towers; norms,
    biases, other 1-d parameters, position queries and character embeddings do not decay. Frozen ones are left out.

    Args:
        model ([`Clip4STRForSceneTextRecognition`]): the reader to train.
        learning_rate (`float`, defaults to 8.4e-5): rate of the towers; the paper scales it by effective batch / 512.
        weight_decay (`float`, defaults to 0.2): decay of the parameters that decay.
        decoder_rate_factor (`float`, defaults to 19): rate of the decoders over that of the towers.

    Returns:
        `list[dict]`: groups for a torch optimizer; `Trainer` takes the optimizer as `optimizers=(optimizer, None)`.

    Example:

    ```python
    >>> optimizer = torch.optim.AdamW(optimizer_groups(model), betas=(0.9, 0.98), eps=1e-6)
    >>> trainer = Trainer(model=model, args=args, train_dataset=words, optimizers=(optimizer, None))
    ```"""
    embeddings = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    groups = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_decoder = name.startswith(("visual_decoder.", "cross_decoder."))
        undecayed = parameter.ndim < 2 or (in_decoder and name in embeddings) or name.endswith("position_queries")
        groups.setdefault((in_decoder, not undecayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": learning_rate * (decoder_rate_factor if in_decoder else 1.0),
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (in_decoder, decays), parameters in groups.items()
    ]
