# SPDX-License-Identifier: Apache-2.0
"""Captions are the token ids that CLIP's own tokenizer gives."""

import gzip
import random
import string

import pytest
import torch
from conftest import tiny_config
from transformers import CLIPTextConfig, CLIPTokenizer

from clip4str_hf import Clip4STRConfig, Clip4STRForSceneTextRecognition, captioning_clip4str
from clip4str_hf.captioning_clip4str import MERGES_FILE, Clip4STRCaptioner
from clip4str_hf.configuration_clip4str import DEFAULT_CAPTION_CHARSET


BEGIN, END = 49406, 49407


@pytest.fixture(scope="module")
def merges():
    with gzip.open(MERGES_FILE, "rt", encoding="utf-8") as file:
        return [tuple(line.split()) for line in file.read().split("\n")[1:48895]]


@pytest.fixture(scope="module")
def clip_tokenizer(merges):
    """transformers' tokenizer of CLIP, made of CLIP's merges alone."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(byte) for byte in printable] + [chr(256 + place) for place in range(256 - len(printable))]
    tokens = symbols + [symbol + "</w>" for symbol in symbols] + ["".join(merge) for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)


@pytest.fixture(scope="module")
def default_captioner():
    return captioner_of(Clip4STRConfig())


def captioner_of(config):
    captioner = Clip4STRCaptioner(config)
    captioner.fill_tables()
    captioner.fill_merges()
    return captioner


def spelt(charset, texts, length=26):
    ids = {character: index for index, character in enumerate(charset, start=1)}
    return torch.tensor([[ids[character] for character in text] + [0] * (length - len(text)) for text in texts])


def as_clip_does(clip_tokenizer, texts, context_length=16):
    encoded = clip_tokenizer(
        texts, padding="max_length", truncation=True, max_length=context_length, return_tensors="pt"
    )
    return encoded.input_ids * encoded.attention_mask  # CLIP4STR pads with 0


def check_equal(captioner, clip_tokenizer, charset, texts, context_length=16):
    # Texts of one length are encoded together: the work grows with the longest.
    texts = sorted(texts, key=len)
    for start in range(0, len(texts), 5000):
        batch = texts[start : start + 5000]
        got = captioner(spelt(charset, batch, length=max(len(batch[-1]), 1) + 1))
        expected = as_clip_does(clip_tokenizer, batch, context_length)
        wrong = [text for text, same in zip(batch, got.eq(expected).all(1).tolist(), strict=True) if not same]
        assert not wrong, f"{len(wrong)} texts, such as {wrong[:5]}"


def strings(charset, count, longest=25, seed=0):
    generator = random.Random(seed)
    return ["".join(generator.choices(charset, k=generator.randint(0, longest))) for _ in range(count)]


def test_words_and_random_strings_are_encoded_as_clip_does(default_captioner, clip_tokenizer, merges):
    words = ["".join(pair).removesuffix("</w>") for pair in merges]
    words = sorted({word for word in words if set(word) <= set(DEFAULT_CAPTION_CHARSET)})
    generator = random.Random(0)
    pairs = [(generator.choice(words) + generator.choice(words))[:25] for _ in range(35_000)]
    texts = words + pairs + strings(DEFAULT_CAPTION_CHARSET, 35_000)
    assert len(texts) > 100_000
    check_equal(default_captioner, clip_tokenizer, Clip4STRConfig().charset, texts)


@pytest.mark.parametrize(
    "charset",
    [
        string.digits + string.ascii_lowercase + string.punctuation + " ",
        "'stmdrevl1! a",  # mostly contractions
        "aé ß'½²€«»١٢αβγάέήςабвгдё가나다한국汉字日本語かなカナ1!",
    ],
    ids=["punctuation", "contractions", "beyond ASCII"],
)
def test_any_caption_charset_is_encoded_as_clip_does(clip_tokenizer, charset):
    captioner = captioner_of(Clip4STRConfig(charset=charset, caption_charset=charset))
    check_equal(captioner, clip_tokenizer, charset, strings(charset, 5000, longest=20))


def test_a_caption_is_lower_cased_reduced_and_ends_at_the_first_end(default_captioner, clip_tokenizer):
    ids = spelt(Clip4STRConfig().charset, ["C&A-x_2", "STOP"])
    ids[1, 6:9] = ids[0, :3]  # after the end
    assert default_captioner(ids).equal(as_clip_does(clip_tokenizer, ["cax2", "stop"]))


def test_a_caption_may_be_empty(default_captioner):
    empty = [BEGIN, END] + [0] * 14
    assert default_captioner(spelt(Clip4STRConfig().charset, ["", "#?!"])).tolist() == [empty, empty]


def test_a_long_caption_is_cut_and_ends_with_the_end(default_captioner, clip_tokenizer):
    text = "1234567890qxzjqwvkqjzxqzj"
    whole = clip_tokenizer([text]).input_ids[0]
    assert len(whole) > 16
    (caption,) = default_captioner(spelt(Clip4STRConfig().charset, [text])).tolist()
    assert caption == [*whole[:15], END]


@pytest.mark.parametrize("context_length", [3, 8, 77])
def test_the_context_length_can_be_chosen(clip_tokenizer, context_length):
    captioner = captioner_of(Clip4STRConfig(caption_context_length=context_length))
    texts = ["", "a", "12345678", "q1w2e3r4"]
    check_equal(captioner, clip_tokenizer, Clip4STRConfig().charset, texts, context_length)


@pytest.mark.parametrize("character", ["\u0301", "\u1161", "\u0958"])
def test_characters_that_combine_are_refused(character):
    with pytest.raises(ValueError, match=r"join their neighbours.*Use composed characters"):
        Clip4STRCaptioner(Clip4STRConfig(caption_charset="ab" + character))


def test_a_small_vocabulary_spells_bytes():
    captioner = captioner_of(tiny_config(charset="abé", caption_charset="abé"))
    latin = {byte: index for index, byte in enumerate([*range(33, 127), *range(161, 173), *range(174, 256)])}
    first, second = "é".encode()
    assert captioner(spelt("abé", ["abé", "b"]))[:, :6].tolist() == [
        [512, latin[ord("a")], latin[ord("b")], latin[first], latin[second] + 256, 513],
        [512, latin[ord("b")] + 256, 513, 0, 0, 0],
    ]


def test_a_vocabulary_that_is_cut_uses_the_first_merges(merges):
    text_config = CLIPTextConfig(vocab_size=514 + 2, bos_token_id=514, eos_token_id=515)
    captioner = captioner_of(Clip4STRConfig(text_config=text_config))
    assert merges[:2] == [("i", "n"), ("t", "h")]
    assert captioner(spelt(Clip4STRConfig().charset, ["thin"]))[0, :5].tolist() == [514, 513, 72, 333, 515]


def test_a_saved_reader_needs_no_merges_file(tmp_path, monkeypatch):
    text_config = CLIPTextConfig(
        vocab_size=2000,
        bos_token_id=1998,
        eos_token_id=1999,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=32,
    )
    model = Clip4STRForSceneTextRecognition(tiny_config(text_config=text_config))
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(captioning_clip4str, "MERGES_FILE", tmp_path / "absent.txt.gz")
    loaded = Clip4STRForSceneTextRecognition.from_pretrained(tmp_path)
    ids = spelt(model.config.charset, ["the", "Interesting", "x1"])
    assert loaded.captioner(ids).equal(model.captioner(ids))
    assert loaded.captioner(ids)[0].gt(514).sum() > 1  # a merged token, besides begin and end
    with pytest.raises(OSError, match="merges are not beside this code: load a saved reader"):
        Clip4STRForSceneTextRecognition(model.config)


def test_a_caption_does_not_depend_on_its_batch(default_captioner):
    ids = spelt(Clip4STRConfig().charset, strings(Clip4STRConfig().charset, 16))
    assert torch.cat([default_captioner(row[None]) for row in ids]).equal(default_captioner(ids))
