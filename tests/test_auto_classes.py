# SPDX-License-Identifier: Apache-2.0
"""transformers' auto classes know this model once the package is imported."""

import logging

import pytest
import transformers
from transformers.pipelines import PIPELINE_REGISTRY

import clip4str_hf
from clip4str_hf import default_checkpoint


@pytest.mark.parametrize(
    ("auto_class", "expected"),
    [
        ("AutoConfig", "Clip4STRConfig"),
        ("AutoModel", "Clip4STRForSceneTextRecognition"),
        ("AutoModelForTextRecognition", "Clip4STRForSceneTextRecognition"),
        ("AutoModelForImageTextToText", "Clip4STRForSceneTextRecognition"),
        ("AutoTokenizer", "Clip4STRTokenizer"),
        ("AutoImageProcessor", "Clip4STRImageProcessor"),
        ("AutoProcessor", "Clip4STRProcessor"),
    ],
)
def test_an_auto_class_loads_this_package_s_class(auto_class, expected):
    loaded = getattr(transformers, auto_class).from_pretrained(default_checkpoint())
    assert type(loaded) is getattr(clip4str_hf, expected)


def test_registering_twice_changes_nothing():
    from clip4str_hf.registration_clip4str import register

    def registered():
        pipelines = logging.getLogger("transformers.pipelines")
        return PIPELINE_REGISTRY.supported_tasks["image-text-to-text"]["impl"], list(pipelines.filters)

    before = registered()
    register()
    assert registered() == before
