# SPDX-License-Identifier: Apache-2.0
"""transformers' common tests of configurations and models; every exception is listed with its reason."""

import unittest

import torch
from conftest import tiny_config
from upstream import upstream_tests, without_exceptions

from clip4str_hf import Clip4STRConfig, Clip4STRForSceneTextRecognition


configuration_common = upstream_tests("test_configuration_common")
modeling_common = upstream_tests("test_modeling_common")

NOT_SHIPPED = "the generation tests are not in the source distribution; tests/test_generation_clip4str.py has ours"
OWN_NAMES = "no hidden_states or attentions, but encoder_attentions, cross_attentions, visual_cross_attentions"
TENSOR = "get_image_features and get_text_features give the features of all tokens, as a tensor"

EXCEPTIONS = {
    "test_generation_tester_mixin_inheritance": NOT_SHIPPED,
    "test_attention_outputs": OWN_NAMES,
    "test_hidden_states_output": OWN_NAMES,
    "test_retain_grad_hidden_states_attentions": OWN_NAMES,
    "test_init_weights_can_init_buffers": "`_init_weights` alone fills tables; test_modeling_clip4str.py has ours",
    "test_eager_matches_sdpa_inference_24_fp32_pad_left_output_attentions": "only eager attention gives weights",
    "test_model_base_model_prefix": "there is no model without head",
    "test_model_get_set_embeddings": "the input are images: its embedding is a convolution",
    **{
        f"test_get_{kind}_features_{what}": TENSOR
        for kind in ("image", "text")
        for what in ("attentions", "hidden_states", "output_0", "output_1", "output_2")
    },
}


class Reader(Clip4STRForSceneTextRecognition):
    """The common tests ask every model for hidden states and compare the last: for this one, give the logits."""

    def forward(self, pixel_values, labels=None, output_attentions=None, return_dict=None, output_hidden_states=None):
        output = super().forward(pixel_values, labels, output_attentions, return_dict)
        if output_hidden_states and return_dict is not False:
            output["hidden_states"] = (output.logits,)
        return output


class Clip4STRModelTester:
    """Sizes and inputs that the common tests ask for."""

    def __init__(self, parent):
        self.parent = parent
        self.is_training = True
        self.attn_implementation = None  # the default
        self.batch_size = 3
        config = tiny_config()
        self.hidden_size = config.hidden_size
        self.num_hidden_layers = config.vision_config.num_hidden_layers
        self.num_attention_heads = config.vision_config.num_attention_heads
        self.image_size = config.vision_config.image_size
        self.seq_length = self.encoder_seq_length = (self.image_size // config.vision_config.patch_size) ** 2 + 1

    def get_config(self):
        # Some merges: the common tests do not expect an empty table.
        text_config = {"vocab_size": 600, "bos_token_id": 598, "eos_token_id": 599, "projection_dim": 32}
        text_config |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = tiny_config(text_config=text_config)
        config._attn_implementation = self.attn_implementation
        return config

    def prepare_config_and_inputs_for_common(self):
        pixel_values = torch.randn(self.batch_size, 3, self.image_size, self.image_size)
        return self.get_config(), {"pixel_values": pixel_values}


@without_exceptions(EXCEPTIONS)
class TestClip4STRModel(modeling_common.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (Reader,)
    _is_composite = True
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = Clip4STRModelTester(self)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs_dict = super()._prepare_for_class(inputs_dict, model_class)
        if return_labels:
            inputs_dict["labels"] = torch.tensor([[95, 11, 12, 0], [95, 20, 0, -100], [95, 1, 94, 0]])
        return inputs_dict

    def test_model_outputs_equivalence(self):
        self.model_tester.attn_implementation = "eager"  # which alone gives attention weights
        super().test_model_outputs_equivalence()

    def test_capture_outputs_decorator(self):
        self.model_tester.attn_implementation = "eager"
        super().test_capture_outputs_decorator()

    def test_config(self):
        tester = configuration_common.ConfigTester(
            self,
            config_class=Clip4STRConfig,
            common_properties=["hidden_size", "num_classes", "charset"],
            max_label_length=12,
            charset="abc",
        )
        tester.run_common_tests()
