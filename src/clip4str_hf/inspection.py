# SPDX-License-Identifier: Apache-2.0
"""Shows how a word was read: by both branches, pass by pass, and where in the image they looked."""

from dataclasses import dataclass

import torch

from .metrics.analysis import confused_characters
from .modeling_clip4str import Clip4STRForSceneTextRecognition
from .processing_clip4str import Clip4STRProcessor


@dataclass
class Step:
    """
    What both branches read in one pass, each as returned by [`~Clip4STRProcessor.post_process_text_recognition`]
    (`text`, `score`, `char_scores`); the cross-modal branch sees the text of the visual one. For a reader that is the
    visual branch alone, both are what that branch read.
    """

    visual: dict
    cross_modal: dict


def read_in_steps(
    image, model: Clip4STRForSceneTextRecognition, processor: Clip4STRProcessor, refine_iters: int = 1
) -> tuple[list[Step], torch.Tensor]:
    """
    Reads one word and keeps what was read at each step: after the prediction and after each refinement.

    Args:
        image: one image of any kind that the processor reads.
        model ([`Clip4STRForSceneTextRecognition`]): the reader, with `attn_implementation="eager"`.
        processor ([`Clip4STRProcessor`]): its processor.
        refine_iters (`int`, *optional*, defaults to 1): number of refinements, 0 or more.

    Returns:
        `(steps, maps)`: `refine_iters + 1` steps, with the answer as the cross-modal text of the last one, and a map
        for each character of the answer, of shape `(characters, patch rows, patch columns)`, see
        [`~Clip4STRProcessor.post_process_attentions`]; turned back if the image was turned to be read.

    Raises:
        ValueError: if the image cannot be read, `refine_iters` is negative or the attention is not eager.
    """
    if refine_iters < 0:
        raise ValueError(f"refine_iters={refine_iters} must be at least 0.")
    image = processor.image_processor.fetch_rgb(image)
    pixel_values = processor(images=image, return_tensors="pt").pixel_values.to(model.device, model.dtype)
    steps = []
    # Starts anew for each number of refinements: a single word is read quickly, and `generate` stays as it is.
    for done in range(refine_iters + 1):
        outputs = model.generate(
            pixel_values,
            refine_iters=done,
            visual_only=not model.config.cross_modal_loss_weight,  # with 0 the other branch is untrained
            output_attentions=True,
            return_dict_in_generate=True,
        )
        # Only the logits of the answer are already divided by it.
        visual_logits = outputs.visual_logits.float() / model.config.confidence_temperature
        words = (processor.post_process_text_recognition(of) for of in (visual_logits, outputs.logits))
        steps.append(Step(*(word for (word,) in words)))
    branch = "visual" if outputs.cross_attentions is None else "cross_modal"
    (maps,) = processor.post_process_attentions(outputs, branch)
    return steps, processor.image_processor.turn_back(maps, image.height, image.width)


def describe_changes(before: str, after: str) -> list[str]:
    """
    The fewest changes that turn one text into another.

    Example:

    ```python
    >>> describe_changes("Pharnacys", "Pharmacy")
    ['n → m', '- s']
    ```"""
    changes = confused_characters(after, before)
    return [f"{old} → {new}" if old and new else f"+ {new}" if new else f"- {old}" for old, new in changes]


def crop_box(
    corner: tuple[float, float], opposite: tuple[float, float], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """
    The box between two of its corners in any order, for `PIL.Image.Image.crop`.

    Args:
        corner, opposite (`tuple[float, float]`): x and y of pixels that belong to the box.
        size (`tuple[int, int]`): width and height of the image, to which the box is clipped.

    Returns:
        `tuple[int, int, int, int]`: left, top, right and bottom; the latter two are the first pixels outside.

    Raises:
        ValueError: if the box is less than 3 pixels wide or high.
    """
    (left, right), (top, bottom) = (
        (max(0, int(min(ends))), min(side, int(max(ends)) + 1)) for ends, side in zip(zip(corner, opposite), size)
    )
    if right - left < 3 or bottom - top < 3:
        raise ValueError(
            f"A box of {max(0, right - left)} x {max(0, bottom - top)} pixels holds no word: "
            "it must be at least 3 pixels wide and high."
        )
    return left, top, right, bottom


__all__ = ["Step", "crop_box", "describe_changes", "read_in_steps"]
