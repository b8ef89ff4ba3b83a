# SPDX-License-Identifier: Apache-2.0
"""CLIP4STR in Hugging Face Transformers: reads the word in an image with CLIP."""

from pathlib import Path

from .configuration_clip4str import Clip4STRConfig
from .generation_clip4str import Clip4STRGenerateOutput
from .image_processing_clip4str import Clip4STRImageProcessor
from .modeling_clip4str import Clip4STRForSceneTextRecognition, Clip4STROutput
from .pipeline_clip4str import Clip4STRPipeline
from .processing_clip4str import Clip4STRProcessor
from .registration_clip4str import register
from .tokenization_clip4str import Clip4STRTokenizer
from .training.collator import DataCollatorForTextRecognition
from .training.optimization import optimizer_groups


def default_checkpoint() -> str:
    """Path of the small trained reader inside this package, for `from_pretrained` and `pipeline`."""
    return str(Path(__file__).with_name("checkpoint"))


register()

__all__ = [
    "Clip4STRConfig",
    "Clip4STRForSceneTextRecognition",
    "Clip4STRGenerateOutput",
    "Clip4STRImageProcessor",
    "Clip4STROutput",
    "Clip4STRPipeline",
    "Clip4STRProcessor",
    "Clip4STRTokenizer",
    "DataCollatorForTextRecognition",
    "default_checkpoint",
    "optimizer_groups",
]
