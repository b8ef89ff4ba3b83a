# SPDX-License-Identifier: Apache-2.0
"""Makes transformers' auto classes and pipelines know this model."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForTextRecognition,
    AutoProcessor,
    AutoTokenizer,
)

from .configuration_clip4str import Clip4STRConfig
from .image_processing_clip4str import Clip4STRImageProcessor
from .modeling_clip4str import Clip4STRForSceneTextRecognition
from .processing_clip4str import Clip4STRProcessor
from .tokenization_clip4str import Clip4STRTokenizer


def register():
    """Registers configuration, model, tokenizer, processors and pipeline; a second call changes nothing."""
    AutoConfig.register(Clip4STRConfig.model_type, Clip4STRConfig, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForTextRecognition, AutoModelForImageTextToText):
        auto_class.register(Clip4STRConfig, Clip4STRForSceneTextRecognition, exist_ok=True)
    AutoTokenizer.register(Clip4STRConfig, slow_tokenizer_class=Clip4STRTokenizer, exist_ok=True)
    AutoImageProcessor.register(Clip4STRConfig, slow_image_processor_class=Clip4STRImageProcessor, exist_ok=True)
    AutoProcessor.register(Clip4STRConfig, Clip4STRProcessor, exist_ok=True)
