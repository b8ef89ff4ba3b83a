# SPDX-License-Identifier: Apache-2.0
"""Characters <-> ids."""

import json
import string
import unicodedata

import pytest
import torch
from transformers import AutoTokenizer

from clip4str_hf import Clip4STRConfig, Clip4STRTokenizer


ASCII = string.digits + string.ascii_lowercase + string.ascii_uppercase + string.punctuation
GREEK = "αβγδεζηθικλμνξοπρσςτυφχψωάέ"
KOREAN = "가나다라마바사아자차카타파하한국어"


@pytest.fixture(scope="module")
def tokenizer():
    return Clip4STRTokenizer()


def test_ids_are_those_of_the_original(tokenizer):
    assert [tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id] == [0, 95, 96]
    assert tokenizer.convert_tokens_to_ids(list(ASCII)) == list(range(1, 95))
    assert tokenizer.vocab_size == len(tokenizer) == 97


def test_ids_agree_with_the_configuration():
    for charset in (ASCII, GREEK, KOREAN):
        tokenizer, config = Clip4STRTokenizer(charset=charset), Clip4STRConfig(charset=charset)
        for name in ("eos_token_id", "bos_token_id", "pad_token_id", "vocab_size", "charset", "max_label_length"):
            assert getattr(tokenizer, name) == getattr(config, name)


def test_a_batch_is_begin_characters_end_padded_to_the_longest(tokenizer):
    ids = tokenizer(["Exit", "a"], return_tensors="pt")
    assert list(ids) == ["input_ids"]
    assert ids.input_ids.dtype == torch.int64
    assert ids.input_ids.tolist() == [[95, 41, 34, 19, 30, 0], [95, 11, 0, 96, 96, 96]]


def test_a_label_alone_can_be_encoded_in_every_way(tokenizer):
    assert tokenizer("ab").input_ids == tokenizer.encode("ab") == [95, 11, 12, 0]
    assert tokenizer("ab", return_tensors="pt").input_ids.tolist() == [[95, 11, 12, 0]]
    assert tokenizer.build_inputs_with_special_tokens([11, 12]) == [95, 11, 12, 0]
    assert tokenizer("ab", add_special_tokens=False).input_ids == [11, 12]
    assert tokenizer(["ab", "a"], padding=False).input_ids == [[95, 11, 12, 0], [95, 11, 0]]


def test_padding_to_the_maximum_holds_the_longest_label_and_two_tokens(tokenizer):
    assert tokenizer(["ab", "a"], padding="max_length", return_tensors="pt").input_ids.shape == (2, 27)
    assert len(tokenizer("a" * 25).input_ids) == 27
    assert len(Clip4STRTokenizer(max_label_length=5)("a", padding="max_length").input_ids) == 7


@pytest.mark.parametrize("label", ["[E]", "[B]a[P]", "<s>", "[[]]", "</s>", "[E", "\\\"'"])
def test_special_tokens_in_a_label_are_characters(tokenizer, label):
    ids = tokenizer(label).input_ids
    assert len(ids) == len(label) + 2
    assert all(1 <= index <= 94 for index in ids[1:-1])
    assert tokenizer.decode(ids) == label


def test_decoding_stops_at_the_first_end_and_skips_what_is_no_character(tokenizer):
    for ids in ([95, 11, 12, 0, 13], [11, 12, 0, 95, 96], [11, 12], [95, 11, 12, 96, 96], [95, 11, 12, 0, -100]):
        assert tokenizer.decode(ids) == "ab"
    batch = torch.tensor([[95, 11, 0, 96], [95, 11, 12, 0]])
    assert tokenizer.batch_decode(batch) == tokenizer.batch_decode(batch, skip_special_tokens=True) == ["a", "ab"]
    assert tokenizer.decode(batch) == ["a", "ab"]
    assert tokenizer.decode([0, 11]) == ""
    assert tokenizer.decode(11) == "a"
    with pytest.raises(ValueError, match="97 is no id"):
        tokenizer.decode([97])


def test_punctuation_is_not_tidied():
    spaced = Clip4STRTokenizer(charset=ASCII + " ")
    for label in ("a .", " do n't ", "x , y !", "  "):
        assert spaced.decode(spaced(label).input_ids) == label
        assert spaced.batch_decode(spaced([label, "q"]).input_ids, clean_up_tokenization_spaces=True)[0] == label


@pytest.mark.parametrize("charset", [GREEK, KOREAN, "b a", list("xyz"), "[]E", ASCII + " "])
@pytest.mark.parametrize("load", [Clip4STRTokenizer.from_pretrained, AutoTokenizer.from_pretrained])
def test_saving_and_loading_keeps_everything(tmp_path, charset, load):
    saved = Clip4STRTokenizer(
        charset=charset, max_label_length=7, clean_labels=True, normalize_unicode=False, remove_whitespace=False
    )
    saved.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["tokenizer_config.json", "vocab.json"]
    loaded = load(tmp_path)
    assert type(loaded) is Clip4STRTokenizer
    assert loaded.charset == "".join(charset)
    assert loaded.get_vocab() == saved.get_vocab()
    assert (loaded.max_label_length, loaded.model_max_length) == (7, 9)
    assert (loaded.clean_labels, loaded.normalize_unicode, loaded.remove_whitespace) == (True, False, False)
    label = "".join(charset)[:7]
    assert loaded(label).input_ids == saved(label).input_ids == [len(charset) + 1, *range(1, len(label) + 1), 0]
    assert loaded.decode(loaded(label).input_ids) == label
    loaded.save_pretrained(tmp_path / "again")
    for name in ("tokenizer_config.json", "vocab.json"):
        first, again = (json.loads((path / name).read_text("utf-8")) for path in (tmp_path, tmp_path / "again"))
        assert {key: again[key] for key in first} == first


def test_loading_can_change_the_maximum(tmp_path):
    Clip4STRTokenizer().save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, max_label_length=3)
    assert len(loaded("a", padding="max_length").input_ids) == 5


def test_a_vocabulary_and_a_charset_that_contradict_each_other_are_refused(tmp_path):
    path = Clip4STRTokenizer(charset="abc").save_vocabulary(tmp_path)[0]
    assert Clip4STRTokenizer(path, charset="abc").charset == "abc"
    with pytest.raises(ValueError, match="charset differs"):
        Clip4STRTokenizer(path, charset="cba")
    (tmp_path / "vocab.json").write_text('{"[GO]": 0, "a": 1}')
    with pytest.raises(ValueError, match=r"must hold \[E\] with id 0"):
        Clip4STRTokenizer(path)


@pytest.mark.parametrize("charset", ["", [], "aa", ["ab", "c"], ["a", ""], ["a", 1]])
def test_a_charset_that_is_none_is_refused(charset):
    with pytest.raises(ValueError, match="charset"):
        Clip4STRTokenizer(charset=charset)
    with pytest.raises(ValueError, match="max_label_length=0"):
        Clip4STRTokenizer(max_label_length=0)


def test_a_label_that_cannot_be_read_is_refused_by_name(tokenizer):
    with pytest.raises(ValueError, match=r"Label 'café ü' holds \[' ', 'é', 'ü'\].*94 characters '0123"):
        tokenizer(["fine", "café ü"])
    with pytest.raises(ValueError, match="Label 'a{26}' has 26 characters.*max_label_length=25"):
        tokenizer("a" * 26)
    with pytest.raises(ValueError, match="Label 'a{26}'"):
        tokenizer("a" * 26, truncation=True)
    with pytest.raises(ValueError, match="Label '' is empty: 1 to 25 characters"):
        tokenizer(["fine", ""])
    with pytest.raises(ValueError, match=r"Label 'é', cleaned to '', is empty"):
        Clip4STRTokenizer(charset="xyz", clean_labels=True)("é")
    with pytest.raises(ValueError, match=r"Label 'b b', cleaned to 'bb', has 2 characters"):
        Clip4STRTokenizer(max_label_length=1)("b b", clean_labels=True)


def test_tokens_that_are_no_characters_cannot_be_added(tokenizer):
    assert tokenizer.add_tokens(["a"]) == 0
    with pytest.raises(NotImplementedError, match=r"\['é'\] cannot be added"):
        tokenizer.add_tokens(["é"])


def test_a_pair_of_labels_is_refused(tokenizer):
    with pytest.raises(ValueError, match="got a pair"):
        tokenizer([["ab", "cd"], ["e", "f"]])


def test_cleaning_follows_the_protocol(tokenizer):
    assert tokenizer.clean(" Café\tn° 1\n") == "Cafen1"
    assert tokenizer.clean("ﬁne…") == "fine..."
    assert tokenizer.clean("日本") == ""
    assert Clip4STRTokenizer(charset=string.digits + string.ascii_lowercase).clean("L'Été 24!") == "lete24"
    assert Clip4STRTokenizer(charset=string.ascii_uppercase).clean("Exit") == "EXIT"
    assert Clip4STRTokenizer(charset="abC").clean("ABcC") == "C"
    assert Clip4STRTokenizer(normalize_unicode=False).clean("Café") == "Caf"


@pytest.mark.parametrize("charset, fold", [(ASCII, str), (string.digits + string.ascii_lowercase, str.lower)])
def test_cleaning_is_that_of_the_protocol_for_every_character(charset, fold):
    tokenizer = Clip4STRTokenizer(charset=charset)
    for char in map(chr, range(0xD800)):
        plain = unicodedata.normalize("NFKD", "".join(char.split())).encode("ascii", "ignore").decode()
        assert tokenizer.clean(char) == "".join(kept for kept in fold(plain) if kept in charset)


def test_cleaning_is_a_default_and_an_argument():
    assert Clip4STRTokenizer()("É", clean_labels=True).input_ids == [95, 41, 0]
    cleaning = Clip4STRTokenizer(clean_labels=True)
    assert cleaning(["É"], return_tensors="pt").input_ids.tolist() == [[95, 41, 0]]
    assert cleaning.encode("É") == [95, 41, 0]
    with pytest.raises(ValueError, match="'É'"):
        cleaning("É", clean_labels=False)


def test_words_are_glued_only_if_white_space_may_be_removed():
    assert Clip4STRTokenizer(clean_labels=True).clean("new york") == "newyork"
    with pytest.raises(ValueError, match=r"holds \[' '\]"):
        Clip4STRTokenizer(clean_labels=True, remove_whitespace=False)("new york")
    spaced = Clip4STRTokenizer(charset=ASCII + " ", clean_labels=True)
    assert spaced.clean(" new\u00a0york\n") == spaced.clean("new \t york") == "new york"
    assert spaced.decode(spaced(" new york", clean_labels=False).input_ids) == " new york"


def test_composed_and_decomposed_accents_are_the_same_label():
    composed_set = Clip4STRTokenizer(charset="йе", clean_labels=True)
    assert composed_set.clean("и\u0306") == composed_set.clean("й") == "й"
    parts = Clip4STRTokenizer(charset="ие\u0306\u0301", clean_labels=True)
    for normalize_unicode in (True, False):
        parts.normalize_unicode = normalize_unicode
        assert parts.clean("й") == parts.clean("и\u0306") == "и\u0306"
    assert Clip4STRTokenizer(charset=KOREAN).clean(unicodedata.normalize("NFD", "한국")) == "한국"


def test_accents_that_the_charset_lacks_leave_their_letter():
    capitals = Clip4STRTokenizer(charset="ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ")
    assert [capitals.clean(label) for label in ("Αθήνα", "ΕΛΛΆΣ")] == ["ΑΘΗΝΑ", "ΕΛΛΑΣ"]
    assert Clip4STRTokenizer(charset="ежлка").clean("Ёлка") == "елка"


@pytest.mark.parametrize(
    "charset, label, cleaned",
    [
        ("アイスカガ", "ｱｲｽ", "アイス"),
        ("ابحرم", "ﻣﺮﺣﺒﺎ", "مرحبا"),
        ("أب", "ﺃﺏ", "أب"),
        ("αβμ5", "5\u00b5", "5μ"),
        ("οδσ", "ΟΔΟΣ", "οδοσ"),
    ],
)
def test_look_alikes_that_the_charset_holds_are_kept(charset, label, cleaned):
    assert Clip4STRTokenizer(charset=charset).clean(label) == cleaned


def test_clean_labels_have_single_spaces_between_words():
    spaced = Clip4STRTokenizer(charset=ASCII + " ")
    assert [spaced.clean(label) for label in ("\u00a8A", "A \u00b4 B", "A 漢 B ")] == ["A", "A B", "A B"]


def test_other_scripts_keep_their_characters_when_cleaned():
    for normalize_unicode in (True, False):
        greek = Clip4STRTokenizer(charset=GREEK, clean_labels=True, normalize_unicode=normalize_unicode)
        assert greek.clean("Άλφα ΟΔΟΣ") == "άλφαοδος"
        assert greek.decode(greek("έδρα").input_ids) == "έδρα"
        korean = Clip4STRTokenizer(charset=KOREAN, clean_labels=True, normalize_unicode=normalize_unicode)
        assert korean.clean("한국어 A") == "한국어"
