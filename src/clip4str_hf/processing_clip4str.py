# SPDX-License-Identifier: Apache-2.0
"""Clip4STR processor: image and label in, text and scores out."""

import copy
import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoImageProcessor, BatchFeature
from transformers.image_utils import SizeDict
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, TextKwargs

from .card_clip4str import has_card
from .configuration_clip4str import DEFAULT_CHARSET, Clip4STRConfig
from .generation_clip4str import character_probabilities
from .image_processing_clip4str import Clip4STRImageProcessor
from .tokenization_clip4str import Clip4STRTokenizer


class Clip4STRTextKwargs(TextKwargs, total=False):
    """
    Adds to the arguments of every tokenizer:

    Attributes:
        clean_labels (`bool`, *optional*):
            Whether labels are cleaned first, see [`~Clip4STRTokenizer.clean`].
    """

    clean_labels: bool | None


class Clip4STRProcessorKwargs(ProcessingKwargs, total=False):
    """Arguments of a call of [`Clip4STRProcessor`]."""

    text_kwargs: Clip4STRTextKwargs
    _defaults = {}  # required before transformers 5.23


class Clip4STRProcessor(ProcessorMixin):
    r"""
    Processor of a [`Clip4STRForSceneTextRecognition`]: a [`Clip4STRImageProcessor`] and a [`Clip4STRTokenizer`].

    Args:
        image_processor (`Clip4STRImageProcessor`):
            Turns images into pixels.
        tokenizer (`Clip4STRTokenizer`):
            Turns labels into ids, and ids into text.

    Example:

    ```python
    >>> processor = Clip4STRProcessor(Clip4STRImageProcessor(), Clip4STRTokenizer())
    >>> inputs = processor(images="word.png", text="Exit", return_tensors="pt")
    >>> inputs.pixel_values.shape, inputs.labels.shape
    (torch.Size([1, 3, 224, 224]), torch.Size([1, 6]))
    ```"""

    _auto_class = "AutoProcessor"  # saved with its code
    valid_processor_kwargs = Clip4STRProcessorKwargs

    def __init__(self, image_processor, tokenizer):
        super().__init__(image_processor, tokenizer)

    @classmethod
    def from_config(
        cls,
        config: Clip4STRConfig,
        image_processor: Clip4STRImageProcessor | None = None,
        tokenizer: Clip4STRTokenizer | None = None,
        **kwargs,
    ) -> "Clip4STRProcessor":
        """
        The processor that a model of this configuration needs.

        Args:
            config ([`Clip4STRConfig`]):
                The model's configuration.
            image_processor ([`Clip4STRImageProcessor`], *optional*):
                An image processor whose settings are kept, such as that of the reader before `resize_charset`: a copy
                of it is used, with the size that the model needs.
            tokenizer ([`Clip4STRTokenizer`], *optional*):
                A tokenizer whose `clean_labels`, `normalize_unicode` and `remove_whitespace` are kept.
            kwargs:
                These three, and arguments of a new image processor (`image_mean=`, `image_std=`, ...), whose mean and
                standard deviation are CLIP's by default.

        Raises:
            ValueError: if both `image_processor` and arguments of a new one are given.
        """
        names = ("clean_labels", "normalize_unicode", "remove_whitespace")
        options = {} if tokenizer is None else {name: getattr(tokenizer, name) for name in names}
        options |= {name: kwargs.pop(name) for name in names if name in kwargs}
        height, width = config.image_size
        if image_processor is None:
            image_processor = Clip4STRImageProcessor(size={"height": height, "width": width}, **kwargs)
        elif kwargs:
            raise ValueError(f"image_processor is kept as it is, {sorted(kwargs)} are for a new one.")
        else:
            image_processor = copy.deepcopy(image_processor)
            image_processor.size = SizeDict(height=height, width=width)
        sizes = {"charset": config.charset, "max_label_length": config.max_label_length}
        return cls(image_processor, Clip4STRTokenizer(**sizes, **options))

    def adapted_to(self, config: Clip4STRConfig) -> "Clip4STRProcessor":
        """This processor with the characters, the longest label and the image size of a model's configuration."""
        return self.from_config(config, self.image_processor, self.tokenizer)

    @classmethod
    def from_clip_processor(
        cls,
        clip_processor,
        charset=DEFAULT_CHARSET,
        max_label_length: int = 25,
        image_size: int | tuple[int, int] | None = None,
        clean_labels: bool = False,
    ) -> "Clip4STRProcessor":
        """
        The processor of a reader built on a CLIP: with that CLIP's mean, standard deviation and size, but words are
        squashed to the size instead of cropped.

        Args:
            clip_processor (`CLIPProcessor`, `CLIPImageProcessor`, `str` or `os.PathLike`):
                The processor of the CLIP, its image processor, or the name or folder of either.
            charset (`str` or `list[str]`, *optional*):
                The characters that can be read.
            max_label_length (`int`, *optional*, defaults to 25):
                The longest label in characters.
            image_size (`int` or `tuple[int, int]`, *optional*):
                Height and width in pixels, or the side of a square. Defaults to the size of the CLIP's own input.
            clean_labels (`bool`, *optional*, defaults to `False`):
                Whether labels are cleaned, see [`~Clip4STRTokenizer.clean`].
        """
        if isinstance(clip_processor, str | os.PathLike):
            # Only its numbers are used, which do not depend on the backend; this one is always available.
            clip_processor = AutoImageProcessor.from_pretrained(clip_processor, backend="pil")
        clip = getattr(clip_processor, "image_processor", clip_processor)
        if image_size is None:
            size = dict(clip.crop_size if clip.do_center_crop else clip.size)
            image_size = (size["height"], size["width"]) if "height" in size else size["shortest_edge"]
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        return cls(
            Clip4STRImageProcessor(
                size={"height": height, "width": width}, image_mean=clip.image_mean, image_std=clip.image_std
            ),
            Clip4STRTokenizer(charset=charset, max_label_length=max_label_length, clean_labels=clean_labels),
        )

    def __call__(self, images=None, text=None, **kwargs) -> BatchFeature:
        """
        Turns images into pixels and labels into ids.

        Args:
            images (*optional*):
                An image or a list of images of any kind that [`Clip4STRImageProcessor`] reads.
            text (`str` or `list[str]`, *optional*):
                One label or a list of labels, as many as there are images.
            kwargs:
                `return_tensors`, `"pt"` or `"np"` (else lists), and arguments of the image processor and of the
                tokenizer, among them `clean_labels` and `padding`.

        Returns:
            `BatchFeature`: with images `pixel_values`, float32 of shape `(batch, 3, height, width)`; with text
            `labels`, int64 of shape `(batch, longest + 2)`, `[B] c1 .. cn [E]` padded with `[P]`.

        Raises:
            TypeError: if an item is not an image.
            ValueError: if an image cannot be read, a label is refused, their numbers differ, or neither is given.
        """
        # A single label is a batch of one, as a single image is.
        text = [text] if isinstance(text, str) else text if text is None else list(text)
        inputs = super().__call__(images=images, text=text, **kwargs)
        if text is not None:
            inputs["labels"] = inputs.pop("input_ids")
            if images is not None and len(text) != len(inputs["pixel_values"]):
                raise ValueError(f"{len(inputs['pixel_values'])} images and {len(text)} labels do not go together.")
        return inputs

    def post_process_text_recognition(self, outputs) -> list[dict]:
        """
        Turns logits into texts and scores.

        Args:
            outputs (`ModelOutput`, `tuple`, `torch.Tensor` or `np.ndarray`):
                Output of the model or of its `generate(.., return_dict_in_generate=True)`, or its `logits`: floats of
                shape `(batch, positions, N + 1)`, classes `[E]` and the N characters, on any device. Of a tuple the
                first is taken, as of `forward(.., return_dict=False)` without labels and of `Trainer.predict`.

        Returns:
            `list[dict]`: for each image
                - `text` (`str`): the characters up to the first `[E]`, all of them if there is no `[E]`;
                - `score` (`float`): the product of their probabilities and that of the `[E]`;
                - `char_scores` (`list[float]`): the probability of each character of `text`.

        Raises:
            ValueError: if the shape does not fit the tokenizer.
        """
        logits = outputs[0] if isinstance(outputs, tuple) else getattr(outputs, "logits", outputs)
        logits = torch.as_tensor(logits)
        classes = len(self.tokenizer.charset) + 1
        if logits.ndim != 3 or logits.shape[-1] != classes:
            raise ValueError(f"logits must be of shape (batch, positions, {classes}), got {tuple(logits.shape)}.")
        ids, probabilities, _ = character_probabilities(logits, self.tokenizer.eos_token_id)
        # Ids are small enough to be exact as floats: one transfer for both.
        return [self._read(*row) for row in torch.stack((ids, probabilities), dim=1).tolist()]

    def _upload_modified_files(self, working_dir, repo_id, files_timestamps, *args, **kwargs):
        # `push_to_hub` writes an empty template for the card; that of the model uploads a filled one instead.
        if "README.md" not in files_timestamps and not has_card(repo_id, kwargs.get("token")):
            Path(working_dir, "README.md").unlink(missing_ok=True)
        return super()._upload_modified_files(working_dir, repo_id, files_timestamps, *args, **kwargs)

    def _read(self, ids: list[float], probabilities: list[float]) -> dict:
        end = self.tokenizer.eos_token_id
        length = ids.index(end) if end in ids else len(ids)
        return {
            "text": self.tokenizer.decode([int(index) for index in ids[:length]]),
            "score": math.prod(probabilities[: length + 1]),
            "char_scores": probabilities[:length],
        }

    def post_process_attentions(
        self, outputs, branch: str = "cross_modal", target_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[torch.Tensor]:
        """
        Where in the image each character was read from: the attention weights of a decoder over the patches, averaged
        over the heads of its last layer. The class token and the caption are left out, so that the weights of a
        character sum to the share that the decoder took from the patches, 1 at most.

        Args:
            outputs (`ModelOutput`):
                Output of `generate(.., return_dict_in_generate=True, output_attentions=True)` or of the model.
            branch (`str`, *optional*, defaults to `"cross_modal"`):
                `"cross_modal"`, or `"visual"` for the visual branch and the characters it read.
            target_sizes (`Sequence[tuple[int, int]]`, *optional*):
                Height and width of each image in pixels, to which the maps are resized (bilinear). If the image
                processor turns images of such a size (by its own `do_align_long_axis`, not that of a call), the maps
                are turned back; without `target_sizes` they stay as the image was read.

        Returns:
            `list[torch.FloatTensor]`: for each image a map for each character of its text, float32 of shape
            `(characters, patch rows, patch columns)`, or `(characters, height, width)` with `target_sizes`.

        Raises:
            ValueError: if there is no such branch, its weights were not returned, or the sizes do not fit.
        """
        if branch not in ("cross_modal", "visual"):
            raise ValueError(f"branch={branch!r} must be 'cross_modal' or 'visual'.")
        prefix = "visual_" if branch == "visual" else ""
        attentions = getattr(outputs, f"{prefix}cross_attentions", None)
        if not attentions:
            raise ValueError(
                f"The outputs hold no {prefix}cross_attentions: ask for output_attentions=True, and for those of the "
                "cross-modal branch not for visual_only=True."
            )
        words = self.post_process_text_recognition(getattr(outputs, f"{prefix}logits"))
        if target_sizes is not None and len(target_sizes) != len(words):
            raise ValueError(f"{len(target_sizes)} target_sizes and {len(words)} images do not go together.")
        patches = outputs.image_features.shape[1] - 1
        # Image tokens come first, with the class token before the patches.
        maps = attentions[-1].float().mean(1)[:, :, 1 : patches + 1].unflatten(-1, self._grid(patches)).cpu()
        maps = [of_image[: len(word["char_scores"])] for of_image, word in zip(maps, words)]
        return maps if target_sizes is None else [self._resize(*pair) for pair in zip(maps, target_sizes)]

    def _grid(self, patches: int) -> tuple[int, int]:
        """Rows and columns of the patches, which are square."""
        size = self.image_processor.size
        side = math.isqrt(size.height * size.width // patches)
        rows, columns = size.height // side, size.width // side
        if rows * columns != patches:
            raise ValueError(f"{patches} patches do not make up images of {size.height} x {size.width} pixels.")
        return rows, columns

    def _resize(self, maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        if not len(maps):  # an empty text, which `interpolate` refuses
            return maps.new_zeros(0, *size)
        maps = self.image_processor.turn_back(maps, *size)
        return torch.nn.functional.interpolate(maps[None], size=tuple(size), mode="bilinear")[0]

    @property
    def model_input_names(self) -> list[str]:
        """The entries of a call's result that the model takes."""
        return [*self.image_processor.model_input_names, "labels"]


__all__ = ["Clip4STRProcessor"]
