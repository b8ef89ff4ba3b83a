# SPDX-License-Identifier: Apache-2.0
"""Makes this model known to the auto classes and `pipeline` of transformers."""

import logging

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForTextRecognition,
    AutoProcessor,
    AutoTokenizer,
    ImageTextToTextPipeline,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_clip4str import Clip4STRConfig
from .image_processing_clip4str import Clip4STRImageProcessor
from .modeling_clip4str import Clip4STRForSceneTextRecognition
from .pipeline_clip4str import Clip4STRPipeline
from .processing_clip4str import Clip4STRProcessor
from .tokenization_clip4str import Clip4STRTokenizer


class ImageTextToTextRouter(ImageTextToTextPipeline):
    """
    Stands in for the pipeline of "image-text-to-text", to which transformers 5 redirects "image-to-text": creates
    a [`Clip4STRPipeline`] for this package's models and transformers' own pipeline for all others.
    """

    _load_processor = None  # as in Clip4STRPipeline: the model tells where its processor is

    def __new__(cls, model, processor=None, **kwargs):
        if model.config.model_type == Clip4STRConfig.model_type:
            return Clip4STRPipeline(model=model, processor=processor, **kwargs)
        if processor is None:
            # `pipeline` could not load it, but it is needed: fail with the reason.
            if not model.config.name_or_path:
                raise ValueError("Impossible to guess which processor to use. Please provide a processor instance.")
            processor = AutoProcessor.from_pretrained(
                model.config.name_or_path,
                revision=getattr(model.config, "_commit_hash", None),
                # Code that came with the model has been trusted already.
                trust_remote_code=type(model).__module__.startswith("transformers_modules."),
            )
        return ImageTextToTextPipeline(model=model, processor=processor, **kwargs)


def register():
    """Registers configuration, model, tokenizer, processors and pipeline; a second call changes nothing."""
    AutoConfig.register(Clip4STRConfig.model_type, Clip4STRConfig, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForTextRecognition, AutoModelForImageTextToText):
        auto_class.register(Clip4STRConfig, Clip4STRForSceneTextRecognition, exist_ok=True)
    AutoTokenizer.register(Clip4STRConfig, slow_tokenizer_class=Clip4STRTokenizer, exist_ok=True)
    # The Pillow backend under both names, so that pixels do not depend on whether torchvision is installed.
    backends = dict.fromkeys(("pil", "torchvision"), Clip4STRImageProcessor)
    AutoImageProcessor.register(Clip4STRConfig, image_processor_classes=backends, exist_ok=True)
    AutoProcessor.register(Clip4STRConfig, Clip4STRProcessor, exist_ok=True)
    PIPELINE_REGISTRY.supported_tasks["image-text-to-text"]["impl"] = ImageTextToTextRouter
    logging.getLogger("transformers.pipelines").addFilter(_is_no_redirection)


def _is_no_redirection(record: logging.LogRecord) -> bool:
    # transformers logs that "image-to-text" is gone: untrue here, and its arguments do not format (a traceback).
    return not str(record.msg).startswith("The task `image-to-text` has been removed")
