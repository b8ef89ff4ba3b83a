# SPDX-License-Identifier: Apache-2.0
"""The configuration, the model, its loss and what is trained."""

import copy
import itertools
import math

import pytest
import torch
from conftest import spell, tiny_config, tiny_model
from torch import nn
from torch.distributed.fsdp import fully_shard
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
)
from transformers.masking_utils import eager_mask
from transformers.models.clip.modeling_clip import eager_attention_forward as clip_eager_attention

from clip4str_hf import Clip4STRConfig, Clip4STRForSceneTextRecognition, optimizer_groups
from clip4str_hf.modeling_clip4str import sample_permutations


LABELS = ["Exit", "a", "C&A-24"]


def load_with_config(path, ignore_mismatched_sizes=False, **fields):
    config = Clip4STRConfig.from_pretrained(path, **fields)
    load = Clip4STRForSceneTextRecognition.from_pretrained
    return load(path, config=config, ignore_mismatched_sizes=ignore_mismatched_sizes)


WAYS_TO_LOAD = [
    pytest.param(Clip4STRForSceneTextRecognition.from_pretrained, id="class"),
    pytest.param(AutoModelForImageTextToText.from_pretrained, id="auto"),
    pytest.param(load_with_config, id="config"),
]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def pixel_values():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


# Configuration


def test_a_configuration_comes_back_from_its_file(tmp_path):
    config = tiny_config(image_size=(16, 64), charset="abcé漢 ", caption_charset="abcé", num_permutations=4)
    config.save_pretrained(tmp_path)
    for loaded in (Clip4STRConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert isinstance(loaded, Clip4STRConfig)
        assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict()
        assert (loaded.charset, loaded.image_size) == ("abcé漢 ", [16, 64])
    assert copy.deepcopy(config).to_dict() == config.to_dict()


def test_what_is_changed_while_loading_changes_what_follows_from_it(tmp_path):
    tiny_config(charset="abc").save_pretrained(tmp_path)
    changed = {"charset": "abcdé", "max_label_length": 9, "image_size": 64}
    config, unused = Clip4STRConfig.from_pretrained(tmp_path, **changed, return_unused_kwargs=True, other=1)
    assert (config.num_classes, config.bos_token_id, config.pad_token_id) == (6, 6, 7)
    assert (config.max_label_length, config.image_size, unused) == (9, [64, 64], {"other": 1})
    assert config.caption_charset == "abcdé"
    assert Clip4STRConfig.from_pretrained(tmp_path, charset="xyz", caption_charset="x").caption_charset == "x"
    with pytest.raises(ValueError, match="charset is empty"):
        Clip4STRConfig.from_pretrained(tmp_path, charset="")


def test_the_token_ids_follow_from_the_charset():
    config = tiny_config(charset="abc", eos_token_id=7, bos_token_id=8, pad_token_id=9)
    assert (config.eos_token_id, config.bos_token_id, config.pad_token_id) == (0, 4, 5)
    assert (config.num_classes, config.vocab_size) == (4, 6)
    assert tiny_config(charset=["c", "a"]).charset == "ca"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"charset": ""}, "charset is empty"),
        ({"charset": ["a", "bc"]}, r"single characters, got \['bc'\]"),
        ({"charset": "aba"}, r"charset holds characters more than once: \['a'\]"),
        ({"caption_charset": ""}, "caption_charset is empty"),
        ({"caption_charset": "aB"}, r"caption_charset must be lower case.*\['B'\]"),
        ({"decoder_attention_heads": 5}, "decoder_attention_heads=5 must divide projection_dim=32"),
        ({"text_config": {"projection_dim": 64}}, "text_config.projection_dim=64 and vision_config.projection_dim=32"),
        ({"text_config": {"vocab_size": 513, "projection_dim": 32}}, "vocab_size=513 must lie between 514"),
        ({"image_size": [32]}, r"image_size=\[32\] must be \[height, width\]"),
        ({"image_size": [32, 30]}, r"image_size=\[32, 30\].*multiples of the patch size 8"),
        ({"image_size": [0, 32]}, r"image_size=\[0, 32\]"),
        ({"caption_context_length": 2}, "caption_context_length=2 must lie between 3 and the 77"),
        ({"caption_context_length": 78}, "caption_context_length=78"),
        ({"num_permutations": 0}, "num_permutations=0 must be 1 or even"),
        ({"num_permutations": 3}, "num_permutations=3 must be 1 or even"),
        ({"decoder_dropout": 1.0}, r"decoder_dropout=1.0 must lie in \[0, 1\)"),
        ({"max_label_length": 0}, "max_label_length=0 must be a whole number of at least 1"),
        ({"decoder_layers": 0}, "decoder_layers=0 must be a whole number of at least 1"),
        ({"max_label_length": 2.5}, "max_label_length=2.5 must be a whole number"),
        ({"decoder_mlp_ratio": 0}, "decoder_mlp_ratio=0 must be a whole number of at least 1"),
        ({"num_frozen_text_layers": 3}, "num_frozen_text_layers=3 must lie between -1 and the tower's 2 layers"),
        ({"num_frozen_text_layers": 2.0}, "num_frozen_text_layers=2.0 must be a whole number"),
        ({"image_size": {"height": 32, "width": 32}}, r"image_size=\['height', 'width'\] must be \[height, width\]"),
        ({"image_size": [32.0, 32]}, r"image_size=\[32.0, 32\] must be"),
        ({"decoder_layer_norm_eps": -1e-5}, "decoder_layer_norm_eps=-1e-05 must be a finite number of more than 0"),
        ({"confidence_temperature": math.inf}, "confidence_temperature=inf must be a finite number"),
        ({"confidence_temperature": None}, "confidence_temperature=None must be a finite number"),
        ({"cross_modal_loss_weight": "1"}, "cross_modal_loss_weight='1' must be a finite number"),
        ({"decoder_dropout": None}, r"decoder_dropout=None must lie in \[0, 1\)"),
        ({"detach_image_features": "no"}, "detach_image_features='no' must be True or False"),
        ({"image_size": 32.0}, r"image_size=\[32.0, 32.0\] must be"),
        ({"num_frozen_image_layers": -2}, "num_frozen_image_layers=-2 must lie between -1 and the tower's 2 layers"),
    ],
)
def test_a_configuration_that_does_not_fit_together_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**fields)


def test_a_configuration_that_was_changed_is_checked_where_it_is_used(tmp_path):
    for name, value, message in (
        ("charset", "abc", "do not belong to the 3 characters of the charset, which has been changed"),
        ("image_size", 32, r"image_size=32 must be \[height, width\]"),
        ("max_label_length", -3, "max_label_length=-3 must be a whole number"),
    ):
        config = tiny_config()
        setattr(config, name, value)
        with pytest.raises(ValueError, match=message):
            Clip4STRForSceneTextRecognition(config)
        with pytest.raises(ValueError, match=message):
            config.save_pretrained(tmp_path)
    assert not any(tmp_path.iterdir())


def test_configurations_are_equal_if_all_of_them_is():
    assert tiny_config() == tiny_config() != tiny_config(charset="abc")
    assert tiny_config() != tiny_config(decoder_layers=2)


def test_towers_that_are_changed_on_loading_are_checked_too(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    changed = Clip4STRConfig.from_pretrained(tmp_path, vision_config={"patch_size": 16})
    assert changed.vision_config.patch_size == 16 and changed.vision_config.hidden_size == 32
    with pytest.raises(ValueError, match="image_size=.*multiples of the patch size 24"):
        Clip4STRConfig.from_pretrained(tmp_path, vision_config={"patch_size": 24})


def test_a_new_reader_is_all_of_one_type_whatever_its_towers_were_saved_in():
    config = tiny_config()
    config.vision_config.dtype = config.text_config.dtype = torch.bfloat16
    model = Clip4STRForSceneTextRecognition(config)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


# Made of a CLIP


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(3)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = tower | {"vocab_size": 600, "bos_token_id": 598, "eos_token_id": 599}
    config = CLIPConfig(text_config=text, vision_config=tower | {"image_size": 32, "patch_size": 8}, projection_dim=16)
    return CLIPModel(config).eval()


FIELDS = {"decoder_attention_heads": 2, "num_frozen_text_layers": 1}


def check_towers(reader, clip):
    own = reader.state_dict()
    of_clip = {name: tensor for name, tensor in clip.state_dict().items() if name != "logit_scale"}
    for name, tensor in of_clip.items():
        tower = "vision_tower" if name.startswith(("vision_model.", "visual_projection.")) else "text_tower"
        assert own[f"{tower}.{name}"].equal(tensor), name
    assert sum(name.startswith(("vision_tower.", "text_tower.")) for name in own) == len(of_clip)


def test_every_tensor_of_a_loaded_clip_arrives_unchanged(clip):
    reader = Clip4STRForSceneTextRecognition.from_clip_pretrained(clip, **FIELDS)
    check_towers(reader, clip)
    assert not reader.training
    assert reader.config.hidden_size == 16
    assert reader.config.text_config.hidden_act == clip.config.text_config.hidden_act


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
def test_every_tensor_of_a_saved_clip_arrives_unchanged(clip, tmp_path, dtype):
    clip.save_pretrained(tmp_path)
    options = {} if dtype is None else {"dtype": dtype}
    reader = Clip4STRForSceneTextRecognition.from_clip_pretrained(str(tmp_path), **FIELDS, **options)
    check_towers(reader, CLIPModel.from_pretrained(tmp_path, **options))
    assert {parameter.dtype for parameter in reader.parameters()} == {dtype or torch.float32}
    assert reader(torch.randn(1, 3, 32, 32, dtype=reader.dtype)).logits.isfinite().all()


def test_fields_and_whole_configurations_override_the_defaults(clip):
    fields = FIELDS | {"charset": "xyz", "max_label_length": 5, "image_size": [16, 64], "decoder_layers": 2}
    reader = Clip4STRForSceneTextRecognition.from_clip_pretrained(clip, **fields)
    assert (reader.config.charset, reader.config.max_label_length, reader.config.decoder_layers) == ("xyz", 5, 2)
    assert reader(torch.randn(2, 3, 16, 64)).logits.shape == (2, 6, 4)
    config = Clip4STRConfig.from_clip_config(clip.config, **fields)
    check_towers(Clip4STRForSceneTextRecognition.from_clip_pretrained(clip, config), clip)


def test_each_tower_of_clip_keeps_its_attention(clip, tmp_path):
    clip.save_pretrained(tmp_path)
    wanted = {"vision_config": "eager", "": "sdpa"}
    reader = Clip4STRForSceneTextRecognition.from_clip_pretrained(tmp_path, attn_implementation=wanted, **FIELDS)
    parts = (reader, reader.vision_tower, reader.text_tower)
    assert [part.config._attn_implementation for part in parts] == ["sdpa", "eager", "sdpa"]
    reader.set_attn_implementation({"": "eager", "vision_config": "sdpa"})
    with pytest.raises(ValueError, match="output_attentions needs attn_implementation='eager'"):
        reader(torch.zeros(1, 3, *reader.config.image_size), output_attentions=True)
    with pytest.raises(ValueError, match="output_loading_info=True does not apply"):
        Clip4STRForSceneTextRecognition.from_clip_pretrained(tmp_path, output_loading_info=True, **FIELDS)


def test_arguments_of_neither_reader_nor_clip_are_refused(clip, tmp_path):
    with pytest.raises(ValueError, match=r"\['max_lenght'\] are no fields"):
        Clip4STRForSceneTextRecognition.from_clip_pretrained(clip, max_lenght=3, **FIELDS)
    clip.save_pretrained(tmp_path)
    with pytest.raises((ValueError, TypeError), match="max_lenght"):
        Clip4STRForSceneTextRecognition.from_clip_pretrained(tmp_path, max_lenght=3, **FIELDS)
    config = Clip4STRConfig.from_clip_config(clip.config, **FIELDS)
    with pytest.raises(ValueError, match=r"\['charset'\].*not both"):
        Clip4STRForSceneTextRecognition.from_clip_pretrained(clip, config, charset="abc")


def test_a_configuration_of_another_clip_is_refused(clip):
    deeper = Clip4STRConfig.from_clip_config(clip.config, **FIELDS)
    deeper.text_config.num_hidden_layers = 3
    with pytest.raises(ValueError, match="does not fit the configuration: (?s:.*)layers.2.layer_norm1.bias"):
        Clip4STRForSceneTextRecognition.from_clip_pretrained(clip, deeper)
    wider = Clip4STRConfig.from_clip_config(clip.config, **FIELDS)
    wider.text_config.intermediate_size = 128
    with pytest.raises(ValueError, match="does not fit the configuration: (?s:.*)text_model.encoder.layers.0.mlp.fc1"):
        Clip4STRForSceneTextRecognition.from_clip_pretrained(clip, wider)
    shallower = Clip4STRConfig.from_clip_config(clip.config, **FIELDS | {"num_frozen_text_layers": 0})
    shallower.text_config.num_hidden_layers = 1
    with pytest.raises(ValueError, match="does not fit the configuration: (?s:.*)text_model.encoder.layers.1"):
        Clip4STRForSceneTextRecognition.from_clip_pretrained(clip, shallower)


# Saved, loaded and run


@pytest.mark.parametrize("auto_class", [Clip4STRForSceneTextRecognition, AutoModel])
def test_a_saved_reader_reads_the_same(model, pixel_values, tmp_path, auto_class):
    model.save_pretrained(tmp_path)
    loaded, info = auto_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded(pixel_values).logits.equal(model(pixel_values).logits)


def test_attention_of_others_reads_what_eager_attention_reads(model, pixel_values, tmp_path):
    AttentionInterface.register("of_clip", clip_eager_attention)
    AttentionMaskInterface.register("of_clip", eager_mask)
    model.save_pretrained(tmp_path)
    eager, other = (
        Clip4STRForSceneTextRecognition.from_pretrained(tmp_path, attn_implementation=name).eval()
        for name in ("eager", "of_clip")
    )
    torch.testing.assert_close(other(pixel_values).logits, eager(pixel_values).logits)
    labels = spell(model, LABELS)
    torch.testing.assert_close(other(pixel_values, labels).loss, eager(pixel_values, labels).loss)


def test_what_is_not_in_the_file_is_initialised_like_a_new_reader(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = Clip4STRForSceneTextRecognition.from_pretrained(tmp_path)
    for name, buffer in model.named_buffers():
        assert loaded.get_buffer(name).equal(buffer), name


def test_a_state_read_from_a_file_can_be_pickled(model, tmp_path):
    """Of an empty merge table, whose address in the file is its neighbour's, `torch.save` would refuse it."""
    assert not len(model.captioner.merge_keys)
    model.save_pretrained(tmp_path)
    state = Clip4STRForSceneTextRecognition.from_pretrained(tmp_path).state_dict()
    torch.save(state, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True).keys() == state.keys()


def test_a_reader_made_on_the_meta_device_can_be_initialised(model):
    with torch.device("meta"):
        empty = Clip4STRForSceneTextRecognition(tiny_config())
    empty = empty.to_empty(device="cpu")
    for buffer in empty.buffers():
        buffer.fill_(-7)
    empty.init_weights()
    for name, buffer in model.named_buffers():
        assert empty.get_buffer(name).equal(buffer), name


def test_new_decoders_are_drawn_from_a_truncated_normal():
    torch.manual_seed(0)
    fresh = Clip4STRForSceneTextRecognition(tiny_config(initializer_range=0.02))
    for decoder in (fresh.visual_decoder, fresh.cross_decoder):
        assert decoder.character_embedding.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert decoder.position_queries.std().item() == pytest.approx(0.02, rel=0.2)
        assert decoder.head.bias.eq(0).all() and decoder.norm.weight.eq(1).all()


@pytest.mark.parametrize("labels", [None, LABELS])
def test_eager_and_sdpa_attention_agree(model, pixel_values, labels):
    labels = labels and spell(model, labels)
    outputs = []
    for implementation in ("eager", "sdpa"):
        torch.manual_seed(0)
        model.set_attn_implementation(implementation)
        outputs.append(model(pixel_values, labels=labels))
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs[0].visual_logits, outputs[1].visual_logits, rtol=1e-4, atol=1e-4)
    if labels is not None:
        torch.testing.assert_close(outputs[0].loss, outputs[1].loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_reads_and_trains(pixel_values, dtype):
    model = tiny_model().to(dtype)
    assert model(pixel_values.to(dtype)).logits.dtype == dtype
    loss = model(pixel_values.to(dtype), labels=spell(model, LABELS)).loss
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()


def gradients(model, pixel_values, **options):
    model.zero_grad()
    torch.manual_seed(0)
    output = model(pixel_values, labels=spell(model, LABELS), **options)
    output.loss.backward()
    return output.loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_gradient_checkpointing_changes_neither_loss_nor_gradients(pixel_values):
    model = tiny_model(decoder_dropout=0.0, decoder_layers=2).train()
    loss, expected = gradients(model, pixel_values)
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    again, found = gradients(model, pixel_values)
    torch.testing.assert_close(again, loss)
    torch.testing.assert_close(found, expected)


def test_parts_of_a_batch_have_outputs_of_one_length(pixel_values):
    model = tiny_model()
    labels = spell(model, ["a", "abcd"])
    model._is_replica = True  # as `nn.DataParallel` marks its copies
    assert model(pixel_values[:1], labels=labels[:1]).logits.shape[1] == labels.shape[1] - 1


def test_a_training_without_labels_is_refused(pixel_values):
    with pytest.raises(ValueError, match="no labels to train on"):
        tiny_model().train()(pixel_values)


def test_token_ids_of_another_processor_are_refused(pixel_values):
    model = tiny_model()
    labels = spell(model, LABELS)
    model.config.bos_token_id = 11  # as `Trainer` aligns them
    with pytest.raises(ValueError, match="bos_token_id=11 must be 95: `Trainer` has taken it from a processor"):
        model(pixel_values, labels=labels)


def test_reading_compiles_as_one_graph(model, pixel_values):
    model.set_attn_implementation("sdpa")
    torch._dynamo.reset()
    with torch.no_grad():
        expected = model(pixel_values)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(pixel_values)
    torch.testing.assert_close(compiled.logits, expected.logits, rtol=1e-4, atol=1e-4)


def test_reading_exports_with_any_batch_size(model, pixel_values):
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        program = torch.export.export(
            model, (pixel_values,), dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1, max=64)}}
        )
        for batch in (pixel_values, torch.randn(5, 3, 32, 32), pixel_values[:1]):
            exported = program.module()(batch)
            torch.testing.assert_close(exported.logits, model(batch).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_a_reader_loads_with_a_device_map(model, pixel_values, tmp_path, device_map):
    model.save_pretrained(tmp_path)
    loaded = Clip4STRForSceneTextRecognition.from_pretrained(tmp_path, device_map=device_map)
    logits = loaded(pixel_values.to(loaded.device)).logits
    torch.testing.assert_close(logits.cpu(), model(pixel_values).logits, rtol=1e-3, atol=1e-3)


def test_images_of_another_shape_are_refused(model):
    for shape in ((3, 32, 32), (1, 3, 32, 40)):
        with pytest.raises(ValueError, match=r"pixel_values of shape .* do not fit.*32, 32"):
            model(torch.zeros(shape))


def test_an_image_need_not_be_square(tmp_path):
    square = tiny_model()
    square.save_pretrained(tmp_path)
    wide = Clip4STRForSceneTextRecognition.from_pretrained(tmp_path, image_size=[16, 64])
    pixels = torch.randn(2, 3, 16, 64)
    assert wide.get_image_features(pixels).shape == (2, 2 * 8 + 1, 32)
    expected = square.vision_tower(pixels, interpolate_pos_encoding=True).image_embeds
    torch.testing.assert_close(wide.get_image_features(pixels)[:, 0], expected)
    assert wide(pixels, labels=spell(wide, ["a", "bc"])).loss.isfinite()


def test_the_class_token_has_the_image_features_of_clip(model, pixel_values):
    features = model.get_image_features(pixel_values)
    torch.testing.assert_close(features[:, 0], model.vision_tower(pixel_values).image_embeds)


def test_a_tuple_holds_what_the_output_holds(model, pixel_values):
    labels = spell(model, LABELS)
    for inputs in ({}, {"labels": labels, "permutations": sample_permutations(6, 6)}):
        with torch.no_grad():
            named, plain = (model(pixel_values, **inputs, return_dict=choice) for choice in (True, False))
        assert isinstance(plain, tuple)
        assert all(a.equal(b) for a, b in zip(named.to_tuple(), plain, strict=True))


# Labels and loss


def test_padding_may_be_the_pad_token_or_minus_100_and_any_width(model, pixel_values):
    labels, permutations = spell(model, LABELS), sample_permutations(6, 6)
    padded = nn.functional.pad(labels.masked_fill(labels == -100, model.config.pad_token_id), (0, 5), value=97 - 1)
    first, second = (model(pixel_values, labels=given, permutations=permutations) for given in (labels, padded))
    assert model.config.pad_token_id == 96
    assert first.loss.equal(second.loss) and first.logits.equal(second.logits)
    assert first.logits.shape == (3, 7, 95)


def test_labels_that_are_no_texts_are_refused(model, pixel_values):
    good = spell(model, ["Exit"])
    wrong = {
        "no begin token": good[:, 1:],
        "begin token only": good[:, :1],
        "too long": spell(model, ["a" * 9]),
        "padding only": torch.full((1, 4), -100),
        "no end token": good[:, :-1],
        "two end tokens": torch.tensor([[95, 11, 0, 0]]),
        "a character after the end token": torch.tensor([[95, 11, 0, 12]]),
        "padding before the end token": torch.tensor([[95, 11, -100, 0]]),
        "a begin token in the text": torch.tensor([[95, 11, 95, 0]]),
        "no character": torch.tensor([[95, 11, 500, 0]]),
    }
    for name, labels in wrong.items():
        with pytest.raises(ValueError, match="must hold the begin token 95, at most 8 characters, the end token 0"):
            model(pixel_values[:1], labels=labels)
            pytest.fail(name)


def test_labels_belong_to_images_one_by_one(model, pixel_values):
    for labels in (spell(model, LABELS)[:1], spell(model, LABELS + LABELS), spell(model, LABELS)[0]):
        with pytest.raises(ValueError, match=r"must have one row for each of 3 images"):
            model(pixel_values, labels=labels)
    labels = spell(model, LABELS)
    assert model(pixel_values, labels=labels.int()).loss.equal(model(pixel_values, labels=labels).loss)


def test_attentions_of_the_loss_need_eager_attention_too(pixel_values):
    model = tiny_model()
    with pytest.raises(ValueError, match="output_attentions needs attn_implementation='eager'"):
        model(pixel_values, labels=spell(model, LABELS), output_attentions=True)


@pytest.mark.parametrize("load", WAYS_TO_LOAD)
def test_a_branch_that_is_trained_again_answers_again(tmp_path, load):
    tiny_model(cross_modal_loss_weight=0.0).save_pretrained(tmp_path)
    assert load(tmp_path).generation_config.visual_only
    assert not load(tmp_path, cross_modal_loss_weight=1.0).generation_config.visual_only


@pytest.mark.parametrize("load", WAYS_TO_LOAD)
@pytest.mark.parametrize("length", [5, 30])
def test_the_longest_reading_follows_what_is_overridden_in_loading(tmp_path, load, length):
    model = tiny_model()
    model.generation_config.max_length = 7
    model.save_pretrained(tmp_path)
    assert load(tmp_path).generation_config.max_length == 7
    assert load(tmp_path, max_label_length=8).generation_config.max_length == 7
    other = load(tmp_path, max_label_length=length, ignore_mismatched_sizes=True)
    assert other.generation_config.max_length == length + 2
    assert other(torch.zeros(1, 3, *other.config.image_size)).logits.shape[1] == length + 1


def test_weights_without_a_folder_and_without_a_configuration_load(tmp_path):
    model = tiny_model()
    state, load = model.state_dict(), Clip4STRForSceneTextRecognition.from_pretrained
    assert load(None, config=model.config, state_dict=state).generation_config.max_length == 10
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    assert load(tmp_path, config=model.config).generation_config.max_length == 10


def test_sharded_parameters_train_and_read(pixel_values, tmp_path):
    """As FSDP wraps it: each of the parts that are not to be split, and the whole."""
    model, whole = tiny_model(), tiny_model()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        for module in model.modules():
            if type(module).__name__ in model._no_split_modules:
                fully_shard(module)
        fully_shard(model)
        labels = spell(whole, LABELS)
        output = model(pixel_values, labels=labels)
        output.loss.backward()
        torch.testing.assert_close(output.loss, whole(pixel_values, labels=labels).loss)
        torch.testing.assert_close(model(pixel_values).logits, whole(pixel_values).logits)
    finally:
        torch.distributed.destroy_process_group()


def test_the_order_of_rows_and_the_mirrors_do_not_matter_for_the_logits(model, pixel_values):
    labels, permutations = spell(model, LABELS), sample_permutations(6, 6)
    output = model(pixel_values, labels=labels, permutations=permutations)
    flipped = model(pixel_values.flip(0), labels=labels.flip(0), permutations=permutations)
    torch.testing.assert_close(flipped.loss, output.loss)
    torch.testing.assert_close(flipped.logits.flip(0), output.logits)


def test_the_cross_modal_loss_reaches_neither_image_tower_nor_visual_decoder(pixel_values):
    for detach in (True, False):
        model = tiny_model(detach_image_features=detach)
        _, with_cross = gradients(model, pixel_values)
        model.config.cross_modal_loss_weight = 0.0
        _, without = gradients(model, pixel_values)
        visual = [name for name in with_cross if name.startswith("visual_decoder.")]
        tower = [name for name in with_cross if name.startswith("vision_tower.")]
        assert visual and tower
        assert all(torch.allclose(with_cross[name], without[name], atol=1e-7) for name in visual)
        assert all(torch.allclose(with_cross[name], without[name], atol=1e-7) for name in tower) == detach


@pytest.mark.parametrize(("layers", "count"), [(1, 1), (2, 6)])
def test_the_loss_is_that_of_one_ordering_after_the_other(pixel_values, layers, count):
    """The orderings one by one, each with masks written as loops over positions."""
    model = tiny_model(decoder_layers=layers)
    config, labels = model.config, spell(model, LABELS)
    labels = labels.masked_fill(labels == -100, config.pad_token_id)
    permutations = sample_permutations(labels.shape[1] - 2, count)
    total = weight = 0
    features = model.get_image_features(pixel_values)
    context, targets = labels[:, :-1], labels[:, 1:].clone()
    targets[targets == config.pad_token_id] = -100
    for number, ordering in enumerate(permutations.tolist()):
        size = len(ordering) - 1
        rank = {position: place for place, position in enumerate(ordering)}
        query, content = torch.zeros(3, 1, size, size).bool(), torch.zeros(3, 1, size, size).bool()
        for row, k, j in itertools.product(range(3), range(size), range(size)):
            readable = context[row, j] not in (config.eos_token_id, config.pad_token_id)
            query[row, 0, k, j] = bool(readable) and rank[j] < rank[k + 1]
            content[row, 0, k, j] = bool(readable) and rank[j] <= rank[k]
        if number == 2:
            targets[targets == config.eos_token_id] = -100
        visual_memory = model.visual_decoder(features=features)
        visual, _ = model.visual_decoder(context, visual_memory, query, content)
        text = model.get_text_features(model.captioner(visual.argmax(-1)))
        memory = model.cross_decoder(features=torch.cat([features, text], dim=1))
        cross, _ = model.cross_decoder(context, memory, query, content)
        counted = int((targets != -100).sum())
        for logits in (visual, cross):
            total += counted * nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        weight += counted
    output = model(pixel_values, labels=labels, permutations=permutations)
    torch.testing.assert_close(output.loss, total / weight)


@pytest.mark.parametrize(("length", "count"), [(1, 1), (2, 2), (3, 6), (4, 6), (25, 6)])
def test_orderings_are_as_many_as_there_are_and_none_twice(length, count):
    for seed in range(20):
        orderings = sample_permutations(length, 6, torch.Generator().manual_seed(seed)).tolist()
        assert len(orderings) == len({tuple(ordering) for ordering in orderings}) == count
        assert all(sorted(ordering) == list(range(length + 2)) for ordering in orderings)


def test_orderings_begin_left_to_right_and_come_with_their_mirrors():
    n = 5
    orderings = sample_permutations(n, 12).tolist()
    assert orderings[0] == list(range(n + 2))
    assert orderings[1] == [0, *range(n + 1, 0, -1)]
    assert all(ordering[0] == 0 for ordering in orderings)
    assert all(ordering[-1] == n + 1 for ordering in orderings[:1] + orderings[2:])
    for ordering, mirror in zip(orderings[2::2], orderings[3::2], strict=True):
        assert ordering[1:-1] == mirror[1:-1][::-1]
    assert sample_permutations(n, 1).tolist() == [list(range(n + 2))]
    assert len(sample_permutations(4, 100)) == math.factorial(4)


def test_the_loss_of_an_evaluation_is_the_same_each_time(model, pixel_values):
    labels, state = spell(model, ["abcdef", "Exit", "Market"]), torch.get_rng_state()
    first, second = (model(pixel_values, labels=labels).loss for _ in range(2))
    assert first.equal(second) and torch.get_rng_state().equal(state)


# Decoder


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_kept_keys_and_values_change_nothing(pixel_values, layers):
    """Left to right, the whole context again for every character."""
    model = tiny_model(decoder_layers=layers)
    output = model.generate(
        pixel_values, refine_iters=0, visual_only=True, return_dict_in_generate=True, synced_gpus=True
    )
    memory = model.visual_decoder(features=model.get_image_features(pixel_values))
    context = torch.full((3, 1), model.config.bos_token_id)
    for _ in range(model.config.max_label_length + 1):
        length = context.shape[1]
        causal = torch.ones(length, length).bool().tril()[None, None]
        logits, _ = model.visual_decoder(context, memory, causal, causal)
        context = torch.cat([context, logits[:, -1:].argmax(-1)], dim=1)
    torch.testing.assert_close(output.logits, logits, rtol=1e-4, atol=1e-4)


# What is trained


def test_the_first_layers_of_the_text_tower_are_frozen():
    model = tiny_model(num_frozen_text_layers=1)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen
    assert all(name.startswith("text_tower.text_model.") for name in frozen)
    stems = {".".join(name.split(".")[2:5]) for name in frozen}
    assert stems == {"embeddings.token_embedding.weight", "embeddings.position_embedding.weight", "encoder.layers.0"}


def test_any_number_of_layers_of_either_tower_can_be_frozen():
    def trained(**fields):
        return {name for name, parameter in tiny_model(**fields).named_parameters() if parameter.requires_grad}

    everything = {name for name, _ in tiny_model().named_parameters()}
    assert trained(num_frozen_text_layers=-1) == everything
    embeddings = {name for name in everything if "text_model.embeddings" in name}
    assert trained(num_frozen_text_layers=0) == everything - embeddings
    image = trained(num_frozen_text_layers=-1, num_frozen_image_layers=2)
    left = {name.split(".")[-2] for name in image if name.startswith("vision_tower.")}
    assert left == {"post_layernorm", "visual_projection"}


def test_loading_keeps_what_is_frozen(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = Clip4STRForSceneTextRecognition.from_pretrained(tmp_path)
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]


def test_optimizer_groups_hold_every_trained_parameter_once(model):
    grouped = [id(parameter) for group in optimizer_groups(model) for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    torch.optim.AdamW(optimizer_groups(model), betas=(0.9, 0.98), eps=1e-6)


def test_decoders_learn_19_times_as_fast_and_norms_biases_and_queries_do_not_decay(model):
    options = {}
    for group in optimizer_groups(model, learning_rate=1e-4, weight_decay=0.2):
        options |= {id(parameter): (group["lr"], group["weight_decay"]) for parameter in group["params"]}
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate, decay = options[id(parameter)]
        assert rate == pytest.approx(19e-4 if "decoder." in name else 1e-4), name
        is_norm = isinstance(modules[name.rpartition(".")[0]], nn.LayerNorm)
        decays = not (
            is_norm or name.endswith(("bias", "class_embedding", "position_queries", "character_embedding.weight"))
        )
        assert decay == (0.2 if decays else 0.0), name


def test_the_caption_of_a_shared_vocabulary_size_fits_the_text_tower():
    text = CLIPTextConfig(vocab_size=530, hidden_size=32, intermediate_size=64, num_hidden_layers=1, projection_dim=32)
    model = tiny_model(text_config=text, num_frozen_text_layers=0)
    assert model.captioner(torch.randint(0, 95, (50, 9))).max() < 530
