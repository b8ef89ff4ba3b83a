# SPDX-License-Identifier: Apache-2.0
"""transformers' common tests of processors; every exception is listed with its reason."""

import unittest

from upstream import upstream_tests, without_exceptions

from clip4str_hf import Clip4STRImageProcessor, Clip4STRProcessor, Clip4STRTokenizer
from clip4str_hf.configuration_clip4str import DEFAULT_CHARSET


processing_common = upstream_tests("test_processing_common")

NAMES_ITS_CODE = "a processor that was loaded also says where its code is (auto_map), a new one does not"

EXCEPTIONS = {
    "test_processor_from_and_save_pretrained": NAMES_ITS_CODE,
    "test_processor_from_and_save_pretrained_as_nested_dict": NAMES_ITS_CODE,
}


@without_exceptions(EXCEPTIONS)
class TestClip4STRProcessor(processing_common.ProcessorTesterMixin, unittest.TestCase):
    processor_class = Clip4STRProcessor
    text_input_name = "labels"

    @classmethod
    def _setup_image_processor(cls):
        return Clip4STRImageProcessor(size=32)

    @classmethod
    def _setup_tokenizer(cls):
        # The texts of the common tests are sentences.
        return Clip4STRTokenizer(charset=DEFAULT_CHARSET + " ", max_label_length=600)
