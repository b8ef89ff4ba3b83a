# SPDX-License-Identifier: Apache-2.0
"""The `image-to-text` pipeline."""

import copy
import os
from collections.abc import Iterable

from torch.utils.data import Dataset
from transformers import Pipeline

from .card_clip4str import complete_card
from .configuration_clip4str import is_remote_code
from .image_processing_clip4str import Clip4STRImageProcessor
from .modeling_clip4str import Clip4STRForSceneTextRecognition
from .processing_clip4str import Clip4STRProcessor
from .tokenization_clip4str import Clip4STRTokenizer


# Arguments of `generate` that a generation configuration cannot hold, and so does not replace.
BESIDE_A_CONFIGURATION = ("logits_processor", "prefix_allowed_tokens_fn", "synced_gpus")


class Clip4STRPipeline(Pipeline):
    """
    Reads words: `pipeline("image-to-text", model=...)`, or `"image-text-to-text"` with only an image.

    Arguments of [`~Clip4STRForSceneTextRecognition.generate`] (`refine_iters=`, `prefix_allowed_tokens_fn=`, ...) may
    be passed when the pipeline is created or called, by name or in `generate_kwargs`.

    Args:
        model ([`Clip4STRForSceneTextRecognition`]): the reader.
        processor ([`Clip4STRProcessor`], *optional*):
            By default that of the folder or repository the model was loaded from, with the characters and image size
            that the model has now.
        tokenizer ([`Clip4STRTokenizer`]), image_processor ([`Clip4STRImageProcessor`]) (*optional*):
            Replace those of the processor; may also be a folder or Hub id.

    Raises:
        ValueError: if the processor has other characters or another image size than the model.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> from clip4str_hf import default_checkpoint

    >>> reader = pipeline("image-to-text", model=default_checkpoint())
    >>> reader("word.png")
    [{'generated_text': 'Exit', 'score': 0.98}]
    ```"""

    # `None`: optional. If `pipeline` finds no processor, `__init__` looks where the model was loaded from.
    _load_processor = None
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False

    def __init__(
        self,
        model: Clip4STRForSceneTextRecognition,
        processor: Clip4STRProcessor | None = None,
        tokenizer: Clip4STRTokenizer | str | os.PathLike | None = None,
        image_processor: Clip4STRImageProcessor | str | os.PathLike | None = None,
        **kwargs,
    ):
        # `pipeline` loads none of the two itself.
        if isinstance(tokenizer, str | os.PathLike):
            tokenizer = Clip4STRTokenizer.from_pretrained(tokenizer)
        if isinstance(image_processor, str | os.PathLike):
            image_processor = Clip4STRImageProcessor.from_pretrained(image_processor)
        if tokenizer is None or image_processor is None:
            processor = processor or _find_processor(model)
        if tokenizer is not None or image_processor is not None:
            processor = Clip4STRProcessor(
                image_processor or processor.image_processor, tokenizer or processor.tokenizer
            )
        if not _fits(processor, model.config):
            raise ValueError(
                f"A processor of the characters {processor.tokenizer.charset!r} and of images of "
                f"{processor.image_processor.size} does not fit this model's {model.config.charset!r} and "
                f"{model.config.image_size}: Clip4STRProcessor.from_config(model.config) does."
            )
        kwargs.pop("local_files_only", None)  # `pipeline` has used it, but passes it on
        super().__init__(model=model, processor=processor, **kwargs)

    def save_pretrained(self, save_directory, **kwargs):
        """Saves model and processor; [`Pipeline`] would only save the parts of the processor."""
        self.model.save_pretrained(save_directory, **kwargs)
        # A tokenizer keeps its loading arguments, to which `pipeline` adds the model's dtype: a clean one is saved.
        self.processor.adapted_to(self.model.config).save_pretrained(save_directory, **kwargs)

    def _upload_modified_files(self, working_dir, repo_id, *args, **kwargs):
        # As in the model: `push_to_hub` calls this with an empty template as the card.
        complete_card(working_dir, self.model, repo_id, kwargs.get("token"))
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def __call__(self, inputs=None, text=None, images=None, **kwargs):
        """
        Args:
            inputs (or `images`):
                An image of any kind that [`Clip4STRImageProcessor`] reads (path, URL, PIL image, array, tensor), a
                list, a dataset column (also streamed, and `KeyDataset`), a generator or another iterable of images.
            text (*optional*):
                `None` or empty texts, as this model takes no prompt.
            kwargs:
                `batch_size`, `num_workers`, and arguments of `generate`, in addition to those that the pipeline was
                created with; a `generation_config` replaces the latter.

        Returns:
            `[{"generated_text": str, "score": float}]` for one image, a list or iterator of these for several.

        Raises:
            ValueError: if no image is given, both `inputs` and `images` are, an image cannot be read, or there is a
                prompt.
        """
        if inputs is not None and images is not None:
            raise ValueError("Images are given twice, as inputs and as images: give them once.")
        inputs = images if inputs is None else inputs
        if inputs is None:
            raise ValueError("An image is needed: a path, a URL, a PIL image, an array, or a list of these.")
        _refuse_prompt(text)
        if isinstance(inputs, tuple) or getattr(inputs, "ndim", None) == 4:
            inputs = list(inputs)
        elif _holds_images(inputs):
            inputs = (image for image in inputs)  # a column of a dataset, which may be larger than memory
        if isinstance(inputs, list) and not inputs:
            return []
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, generate_kwargs=None, **kwargs):
        options = {**(generate_kwargs or {}), **kwargs}
        made_with = getattr(self, "_forward_params", {}).get("generate_options", {})
        if options.get("generation_config") is not None:
            made_with = {name: made_with[name] for name in BESIDE_A_CONFIGURATION if name in made_with}
        return {}, {"generate_options": made_with | options}, {}

    def preprocess(self, image):
        if isinstance(image, dict):
            _refuse_prompt(image.get("text"))
            image = next((image[name] for name in ("image", "images") if name in image), None)
            if image is None:
                raise ValueError("An input that is a dictionary needs an entry 'image'.")
        inputs = self.processor(images=image, return_tensors="pt")
        if len(inputs.pixel_values) != 1:  # batching relies on one image per input
            raise ValueError(f"An input holds {len(inputs.pixel_values)} images: give one image each, in a flat list.")
        return inputs

    def _forward(self, model_inputs, generate_options):
        options = {"return_dict_in_generate": True}
        if generate_options.get("generation_config") is not None:  # transformers warns of options next to one
            options = {"generation_config": copy.deepcopy(generate_options["generation_config"])}
            options["generation_config"].return_dict_in_generate = True
        outputs = self.model.generate(**model_inputs, **generate_options | options)
        return {"logits": outputs.logits}

    def postprocess(self, model_outputs):
        words = self.processor.post_process_text_recognition(model_outputs["logits"])
        return [{"generated_text": word["text"], "score": word["score"]} for word in words]


def _find_processor(model: Clip4STRForSceneTextRecognition) -> Clip4STRProcessor:
    source = model.config.name_or_path
    if not source:
        return Clip4STRProcessor.from_config(model.config)
    # Code that came with the model has been trusted already.
    trust = {"trust_remote_code": True} if is_remote_code() else {}
    try:
        processor = Clip4STRProcessor.from_pretrained(source, **trust, **model.loaded_from)
    except OSError as error:
        raise OSError(
            f"The processor of {source} cannot be loaded, save or push it there too if there is none, or give "
            f"processor=: {error}"
        ) from error
    # The model's characters or image size may have changed since it was saved.
    return processor.adapted_to(model.config)


def _fits(processor, config) -> bool:
    size = processor.image_processor.size
    return processor.tokenizer.charset == config.charset and [size.height, size.width] == list(config.image_size)


def _holds_images(inputs) -> bool:
    """Whether this is an iterable of images, and neither a single image nor one that `Pipeline` takes apart."""
    if isinstance(inputs, list | str | bytes | dict | Dataset) or hasattr(inputs, "ndim") or hasattr(inputs, "read"):
        return False
    return isinstance(inputs, Iterable)


def _refuse_prompt(text):
    prompts = [text] if isinstance(text, str) else text or []
    if any(prompts):
        raise ValueError(f"This model reads words and takes no prompt, got text={text!r}: give images alone.")


__all__ = ["Clip4STRPipeline"]
