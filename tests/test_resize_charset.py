# SPDX-License-Identifier: Apache-2.0
"""A reader of other characters and lengths out of a trained one, and the visual branch alone."""

import string
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import read_texts, spell, tiny_config, tiny_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPConfig, CLIPModel, pipeline

from clip4str_hf import (
    Clip4STRConfig,
    Clip4STRForSceneTextRecognition,
    Clip4STRImageProcessor,
    Clip4STRProcessor,
    default_checkpoint,
    optimizer_groups,
)
from clip4str_hf.configuration_clip4str import DEFAULT_CHARSET, caption_characters
from clip4str_hf.data.charset import read_charset


CROPS = sorted((Path(__file__).parent / "data" / "words").glob("*.webp"))[:4]
GREEK = "αβγδεζηθικλμνξοπρσςτυφχψωάέ"
UKRAINIAN = Path(__file__).parent / "data" / "ukrainian.txt"


@pytest.fixture()
def pixels():
    return torch.randn(3, 3, 32, 32)


@pytest.fixture()
def shipped():
    model = Clip4STRForSceneTextRecognition.from_pretrained(default_checkpoint())
    return model, Clip4STRProcessor.from_pretrained(default_checkpoint())


def decoders(model):
    return (model.visual_decoder, model.cross_decoder)


def test_characters_of_both_sets_and_special_tokens_keep_their_rows():
    model = tiny_model(charset="abc1")
    before = [
        (d.character_embedding.weight.clone(), d.head.weight.clone(), d.head.bias.clone()) for d in decoders(model)
    ]
    model.resize_charset("дc7a", caption_charset="дca")
    for decoder, (embedding, weight, bias) in zip(decoders(model), before):
        # [E] д c 7 a [B] [P] of [E] a b c 1 [B] [P]
        assert decoder.character_embedding.weight[[0, 2, 4, 5, 6]].equal(embedding[[0, 3, 1, 5, 6]])
        assert decoder.head.weight[[0, 2, 4]].equal(weight[[0, 3, 1]])
        assert decoder.head.bias[[0, 2, 4]].equal(bias[[0, 3, 1]])
        for new in (decoder.character_embedding.weight, decoder.head.weight, decoder.head.bias):
            assert not new[1].equal(new[3])
        assert decoder.character_embedding.num_embeddings == 7 and decoder.head.out_features == 5


def test_new_rows_are_spread_as_the_old_ones():
    model = tiny_model()
    before = [
        (decoder.character_embedding.weight, decoder.head.weight, decoder.head.bias) for decoder in decoders(model)
    ]
    model.resize_charset([chr(0x4E00 + number) for number in range(400)], caption_charset="1")
    for decoder, old in zip(decoders(model), before):
        for new, of_old in zip((decoder.character_embedding.weight, decoder.head.weight, decoder.head.bias), old):
            drawn = new[1:401]
            torch.testing.assert_close(drawn.std(0).mean(), of_old.std(0).mean(), rtol=0.1, atol=0)
            far = (drawn.mean(0) - of_old.mean(0)).abs() / of_old.std(0)
            assert far.max() < 0.3  # six standard errors of the mean of 400


def test_configurations_follow():
    model = tiny_model(charset="abc1")
    model.generation_config.refine_iters = 2
    model.generation_config.max_new_tokens = 3
    model.resize_charset(GREEK, max_label_length=30, caption_context_length=40)
    expected = tiny_config(charset=GREEK, max_label_length=30, caption_context_length=40).to_dict()
    assert model.config.to_dict() == expected
    generation = model.generation_config
    assert (generation.bos_token_id, generation.decoder_start_token_id, generation.pad_token_id) == (28, 28, 29)
    assert (generation.max_length, generation.eos_token_id, generation.refine_iters) == (32, 0, 2)
    assert generation.max_new_tokens is None
    assert model.visual_decoder.layers[0].self_attn.config is model.config


def test_a_shorter_reading_stays_where_the_length_is_not_asked_about():
    model = tiny_model(charset="abc1")
    model.generation_config.max_length = 9
    model.resize_charset("abc")
    assert model.generation_config.max_length == 9


def test_the_generation_configuration_follows_what_is_overridden_in_loading(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    load = partial(Clip4STRForSceneTextRecognition.from_pretrained, tmp_path, ignore_mismatched_sizes=True)
    digits, longer = load(charset="0123456789"), load(max_label_length=30)
    assert (digits.generation_config.bos_token_id, digits.generation_config.pad_token_id) == (11, 12)
    assert longer.generation_config.max_length == 32
    assert "max_label_length" not in longer.generation_config.to_dict()
    pixel_values = torch.zeros(1, 3, *digits.config.image_size)
    assert digits.generate(pixel_values).max() <= 12
    assert longer.generate(pixel_values, synced_gpus=True, max_length=None).shape[1] <= 32


def test_clear_words_are_still_read_beside_new_characters(shipped):
    model, processor = shipped
    inputs = processor(images=CROPS, return_tensors="pt")
    before = model.generate(**inputs, return_dict_in_generate=True)
    model.resize_charset("дй " + DEFAULT_CHARSET[::-1], max_label_length=40)
    wider = Clip4STRProcessor.from_config(model.config, processor.image_processor)
    after = model.generate(**inputs, return_dict_in_generate=True)
    assert after.logits.shape == (4, 41, 98)
    assert wider.batch_decode(after.sequences) == processor.batch_decode(before.sequences)
    torch.testing.assert_close(after.confidence, before.confidence, atol=0.05, rtol=0)
    model.resize_charset(DEFAULT_CHARSET, max_label_length=25)
    again = model.generate(**inputs, return_dict_in_generate=True)
    torch.testing.assert_close(again.logits, before.logits)


@pytest.mark.parametrize("length", [3, 8, 40])
def test_positions_of_both_lengths_keep_their_queries(pixels, length):
    model = tiny_model()
    before = model.visual_decoder.position_queries.clone()
    model.resize_charset(max_label_length=length)
    shared = min(length, 8) + 1
    after = model.visual_decoder.position_queries
    assert after.shape == (1, length + 1, 32) and after[:, :shared].equal(before[:, :shared])
    assert after.std() > 0.1
    assert model.generate(pixels).shape[1] <= length + 2
    loss = model(pixels, labels=spell(model, ["a", "bc", "x" * length])).loss
    loss.backward()
    assert model.cross_decoder.position_queries.grad.abs().sum(-1).all()
    with pytest.raises(ValueError, match=f"at most {length} characters"):
        model(pixels, labels=spell(model, ["a", "bc", "x" * (length + 1)]))


def test_a_resized_reader_trains_saves_and_loads(tmp_path, pixels):
    model = tiny_model(charset="abc1")
    model.resize_charset(GREEK, max_label_length=12)
    labels = spell(model, ["οδος", "άλφα", "έ"])
    model.train()
    optimizer = torch.optim.AdamW(optimizer_groups(model, 1e-3))
    losses = []
    for _ in range(12):
        losses.append(model(pixels, labels=labels).loss)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    model.eval().save_pretrained(tmp_path)
    Clip4STRProcessor.from_config(model.config).save_pretrained(tmp_path)
    loaded = Clip4STRForSceneTextRecognition.from_pretrained(tmp_path)
    assert loaded.generate(pixels).equal(model.generate(pixels))
    assert loaded.captioner(labels[:, 1:-1].clamp(min=0)).equal(model.captioner(labels[:, 1:-1].clamp(min=0)))
    (answer,) = pipeline("image-to-text", model=str(tmp_path))(str(CROPS[0]))
    assert set(answer["generated_text"]) <= set(GREEK)


def test_half_precision_and_frozen_parameters_stay_so():
    model = tiny_model(charset="abc1").to(torch.bfloat16)
    model.cross_decoder.requires_grad_(False)
    model.resize_charset("xyz", max_label_length=9)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in model.cross_decoder.parameters())
    assert all(parameter.requires_grad for parameter in model.visual_decoder.parameters())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"charset": "aa"}, "charset holds characters more than once"),
        ({"charset": "xyz", "caption_charset": "x\u0301"}, "join their neighbours"),
        ({"charset": "xyz", "max_label_length": 0}, "max_label_length=0"),
        ({"caption_context_length": 78}, "caption_context_length=78 must lie between 3 and the 77"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_changed(pixels, arguments, message):
    model = tiny_model(charset="abc1")
    before = model.config.to_dict(), model.generation_config.to_dict(), model.generate(pixels)
    with pytest.raises(ValueError, match=message):
        model.resize_charset(**arguments)
    assert model.config.to_dict() == before[0] and model.generation_config.to_dict() == before[1]
    assert model.generate(pixels).equal(before[2])


def test_captions_keep_letters_and_digits_of_the_charset_unless_told_otherwise():
    assert caption_characters(DEFAULT_CHARSET) == string.digits + string.ascii_lowercase
    assert caption_characters("ДІМ-12 ") == "дім12 "
    assert caption_characters("กี่คา") == "กีคา"  # a vowel sign stays, a tone mark joins
    assert caption_characters("é\u0301İ") == "éi"
    assert caption_characters("+-*") == string.digits + string.ascii_lowercase
    assert Clip4STRConfig(charset=GREEK).caption_charset == GREEK
    model = tiny_model(charset="abc")
    model.resize_charset("ДІМ")
    assert model.config.caption_charset == "дім"
    model.resize_charset(max_label_length=3)
    assert model.config.caption_charset == "дім"


def test_the_processor_keeps_what_is_about_images():
    image_processor = Clip4STRImageProcessor(size={"height": 32, "width": 64}, image_mean=[0.5] * 3)
    config = tiny_config(charset="xyz", max_label_length=4, image_size=[32, 96])
    processor = Clip4STRProcessor.from_config(config, image_processor)
    sized = {"size": {"height": 32, "width": 96}}
    assert processor.image_processor.to_dict() == image_processor.to_dict() | sized
    assert image_processor.size == {"height": 32, "width": 64}
    assert (processor.tokenizer.charset, processor.tokenizer.max_label_length) == ("xyz", 4)
    with pytest.raises(ValueError, match=r"\['image_mean'\] are for a new one"):
        Clip4STRProcessor.from_config(config, image_processor, image_mean=[0.5] * 3)
    careful = Clip4STRProcessor.from_config(config, clean_labels=True, normalize_unicode=False)
    for kept in (careful, Clip4STRProcessor.from_config(config, tokenizer=careful.tokenizer)):
        tokenizer = kept.tokenizer
        assert (tokenizer.clean_labels, tokenizer.normalize_unicode, tokenizer.remove_whitespace) == (
            True,
            False,
            True,
        )


def test_without_the_cross_modal_loss_its_branch_is_neither_run_nor_trained(pixels, monkeypatch):
    model = tiny_model(cross_modal_loss_weight=0.0).train()
    full = tiny_model(num_permutations=6).train()
    full.load_state_dict(model.state_dict())
    for network in (model, full):
        network.config.decoder_dropout = 0.0
        for module in network.modules():
            module.p = 0.0 if isinstance(module, torch.nn.Dropout) else getattr(module, "p", None)
    labels = spell(model, ["a", "word", "B2"])
    torch.manual_seed(1)
    expected = full(pixels, labels=labels)
    monkeypatch.setattr(model, "get_text_features", None)  # a call would fail
    torch.manual_seed(1)
    output = model(pixels, labels=labels)
    torch.testing.assert_close(output.visual_logits, expected.visual_logits)
    assert output.logits.equal(output.visual_logits) and output.loss < expected.loss
    output.loss.backward()
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"vision_tower", "visual_decoder"}
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    model.eval()
    assert model.generation_config.visual_only
    read = model.generate(pixels, return_dict_in_generate=True)
    assert read.sequences.equal(read.visual_sequences)
    model.set_attn_implementation("eager")
    assert model(pixels, labels=labels, output_attentions=True).cross_attentions is None


def test_text_towers_that_do_not_take_captions_are_refused(tmp_path):
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = tower | {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513}
    config = CLIPConfig(text_config=text, vision_config=tower | {"patch_size": 8, "image_size": 32}, projection_dim=32)
    CLIPModel(config).save_pretrained(tmp_path)
    options = {"decoder_attention_heads": 2, "num_frozen_text_layers": 1}
    Clip4STRForSceneTextRecognition.from_clip_pretrained(tmp_path, **options)
    weights = load_file(tmp_path / "model.safetensors")
    foreign = {name.replace("text_model", "roberta"): tensor for name, tensor in weights.items()}
    save_file(foreign, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"no CLIP with both of CLIP's towers, it lacks \['text_model"):
        Clip4STRForSceneTextRecognition.from_clip_pretrained(tmp_path, **options)
    for vocab_size in (513, 250_002):
        with pytest.raises(ValueError, match=f"vocab_size={vocab_size} must lie between 514"):
            tiny_config(text_config=text | {"vocab_size": vocab_size, "projection_dim": 32})


def test_a_charset_may_be_in_a_file(tmp_path):
    assert read_charset("abc@") == "abc@"
    assert read_charset("a\u0301b") == "áb"
    charset = read_charset(f"@{UKRAINIAN}")
    assert len(charset) == len(set(charset)) == 10 + 2 * 33 + 32 and "Ї" in charset and "@" in charset
    (tmp_path / "letters.txt").write_bytes("\ufeffи\u0306\r\na b\n".encode())
    assert read_charset(f"@{tmp_path}/letters.txt") == "йa b"


def test_texts_of_several_words_are_read_with_their_spaces(pixels):
    model = tiny_model(charset=string.ascii_uppercase, max_label_length=8, num_permutations=2)
    model.resize_charset(string.ascii_uppercase + " ", max_label_length=40)
    label = "NO PARKING ANY TIME"
    images, labels = pixels[:2], spell(model, [label, "STOP"])
    optimizer = torch.optim.AdamW(model.parameters(), 7e-3)
    for _ in range(100):
        optimizer.zero_grad()
        loss = model(images, labels=labels).loss
        loss.backward()
        optimizer.step()
        if loss < 0.1:
            break
    read = model.generate(images, return_dict_in_generate=True)
    assert read_texts(model, read.sequences) == [label, "STOP"]
    processor = Clip4STRProcessor.from_config(model.config)
    assert [word["text"] for word in processor.post_process_text_recognition(read)] == [label, "STOP"]
    # In captions the words stay apart: each ends with a symbol of its own.
    ends = [(row >= 256) & (row < 512) for row in model.captioner(labels[:, 1:].clamp(min=0))]
    assert [int(end.sum()) for end in ends] == [3, 1]  # cut at 16 tokens, within TIME


def test_decoders_of_other_layers_than_their_own_are_left_whole():
    model = tiny_model()
    before = model.visual_decoder.character_embedding.weight.shape
    model.cross_decoder.head = nn.Sequential(model.cross_decoder.head)
    model.cross_decoder.head.weight = model.cross_decoder.head[0].weight
    with pytest.raises(ValueError, match="head is Sequential on cpu: resize the charset before you add adapters"):
        model.resize_charset("abc")
    assert model.visual_decoder.character_embedding.weight.shape == before
