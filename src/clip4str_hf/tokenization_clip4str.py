# SPDX-License-Identifier: Apache-2.0
"""Clip4STR tokenizer: characters <-> ids."""

import json
import os
import unicodedata
from collections.abc import Sequence
from itertools import takewhile

from transformers import PreTrainedTokenizer

from .configuration_clip4str import DEFAULT_CHARSET, IGNORE_INDEX, characters


VOCAB_FILES_NAMES = {"vocab_file": "vocab.json"}
END, BEGIN, PAD = "[E]", "[B]", "[P]"


class Clip4STRTokenizer(PreTrainedTokenizer):
    r"""
    Tokenizer of a [`Clip4STRForSceneTextRecognition`]: one id for each character (arXiv 2305.14014). `[E]` is 0, the
    characters of the charset are 1 to N in their order, `[B]` is N + 1 and `[P]` is N + 2. A label becomes
    `[B] c1 .. cn [E]`, padded with `[P]`.

    Texts hold characters only: a label `"[E]"` is three of them, never the end token.

    Args:
        vocab_file (`str`, *optional*):
            A `vocab.json` as [`~Clip4STRTokenizer.save_vocabulary`] writes it: token to id.
        charset (`str` or `list[str]`, *optional*):
            The characters in the order of their ids, of any script, each a single code point; a space is a character
            like any other. Labels are in the order in which they are read and Unicode stores them, also in
            right-to-left scripts: position queries learn either direction. Defaults to the characters of `vocab_file`,
            or to `DEFAULT_CHARSET` without one.
        max_label_length (`int`, *optional*, defaults to 25):
            The longest label in characters; `padding="max_length"` pads to two more tokens.
        clean_labels (`bool`, *optional*, defaults to `False`):
            Whether labels go through [`~Clip4STRTokenizer.clean`] first. Can also be passed to a call.
        normalize_unicode (`bool`, *optional*, defaults to `True`):
            Whether cleaning replaces characters outside the charset by their ASCII look-alikes (NFKD).
        remove_whitespace (`bool`, *optional*, defaults to `True`):
            Whether cleaning removes white space outside the charset. With `False`, a label of several words is refused
            instead of its words being glued together.

    Raises:
        ValueError: if the charset is empty, repeats a character, holds an entry that is not a single code point or
            contradicts `vocab_file`; if `max_label_length` is below 1.

    Example:

    ```python
    >>> tokenizer = Clip4STRTokenizer()
    >>> tokenizer(["Exit", "[E]"]).input_ids
    [[95, 41, 34, 19, 30, 0], [95, 85, 41, 87, 0, 96]]
    ```"""

    _auto_class = "AutoTokenizer"  # saved with its code
    vocab_files_names = VOCAB_FILES_NAMES
    # Labels are inputs of a loss: nothing reads an attention mask, as padding is known by its id.
    model_input_names = ["input_ids"]

    def __init__(
        self,
        vocab_file: str | os.PathLike | None = None,
        charset: str | Sequence[str] | None = None,
        max_label_length: int = 25,
        clean_labels: bool = False,
        normalize_unicode: bool = True,
        remove_whitespace: bool = True,
        **kwargs,
    ):
        if max_label_length < 1:
            raise ValueError(f"max_label_length={max_label_length} must be at least 1.")
        # Fixed by the method; a saved configuration repeats them.
        kwargs |= {
            "eos_token": END,
            "bos_token": BEGIN,
            "pad_token": PAD,
            "special_tokens_pattern": "bos_eos",
            "model_max_length": max_label_length + 2,
        }
        if vocab_file is not None:
            in_file = _read_charset(vocab_file)
            if charset is not None and list(charset) != list(in_file):
                raise ValueError(f"charset differs from the characters of {vocab_file}: give one of them only.")
            charset = in_file
        self.charset = characters("charset", DEFAULT_CHARSET if charset is None else charset)
        self.vocab = _vocabulary(self.charset)
        # Folds to the case of the letters, if they all have the same.
        lower, upper = any(map(str.islower, self.charset)), any(map(str.isupper, self.charset))
        self._fold = str if lower == upper else str.lower if lower else str.upper
        self.max_label_length = max_label_length
        self.clean_labels = clean_labels
        self.normalize_unicode = normalize_unicode
        self.remove_whitespace = remove_whitespace
        super().__init__(
            max_label_length=max_label_length,
            clean_labels=clean_labels,
            normalize_unicode=normalize_unicode,
            remove_whitespace=remove_whitespace,
            **kwargs,
        )

    @property
    def vocab_size(self) -> int:
        """N characters and three special tokens."""
        return len(self.vocab)

    def get_vocab(self) -> dict[str, int]:
        """Token to id, in the order of the ids."""
        return dict(self.vocab)

    def clean(self, label: str) -> str:
        """
        Reduces a label to characters that the model can read (the clean-up of the scene text recognition protocol).
        Case is folded if the charset has letters of one case only. Letters and their accents are composed (NFC) or
        taken apart (NFD), whichever the charset holds, and accents that it lacks are left out. Other characters
        outside the charset become their look-alikes (NFKC, else NFKD), and what is then still outside it is removed.
        With a charset that holds the space, words are separated by one space, whatever white space stood between them,
        with none at the ends.

        The result may be empty or too long; the tokenizer refuses both.
        """
        label = self._fold(unicodedata.normalize("NFC", label))
        if " " in self.vocab:
            label = " ".join(label.split())
        # Character by character and only outside the charset, so that a charset of another script keeps its letters.
        label = "".join(char if char in self.vocab else self._replace(char) for char in label)
        label = "".join(
            char for char in label if char in self.vocab or (char.isspace() and not self.remove_whitespace)
        )
        # Again, as look-alikes may hold spaces, and what is removed may leave two of them side by side.
        return " ".join(label.split()) if " " in self.vocab else label

    def _replace(self, char: str) -> str:
        """The replacement of a character outside the charset: its parts if the charset has them, or its look-alike."""
        parts = unicodedata.normalize("NFD", char)
        if all(part in self.vocab for part in parts):
            return parts
        if not self.normalize_unicode:
            return char
        if parts[0] in self.vocab:
            return "".join(part for part in parts if part in self.vocab)
        if char == "ς":  # into which folding the case turns the last letter of a word
            return "σ"
        for form in ("NFKC", "NFKD"):
            alike = self._fold(unicodedata.normalize(form, char))
            if all(part in self.vocab for part in alike):
                break
        return "".join(part for part in alike if part in self.vocab or part.isascii())

    def __call__(self, text=None, *, padding=True, **kwargs):
        """
        Turns labels into ids, `[B] c1 .. cn [E]`, padded with `[P]` to the longest label of the batch.

        Args:
            text (`str` or `list[str]`):
                A label or a batch of labels.
            padding (`bool` or `str`, *optional*, defaults to `True`):
                `"max_length"` pads to `max_label_length + 2`, `False` not at all.
            kwargs:
                `clean_labels`, and the arguments of any tokenizer, such as `return_tensors`.

        Returns:
            `BatchEncoding`: `input_ids`, int64 of shape `(batch, longest + 2)` with `return_tensors="pt"`.

        Raises:
            ValueError: if a label is empty, too long or holds characters outside the charset.
        """
        return super().__call__(text, padding=padding, **kwargs)

    def tokenize(self, text: str, *args, clean_labels: bool | None = None, **kwargs) -> list[str]:
        """
        The characters of a label, without special tokens.

        Raises:
            ValueError: if the label is empty, too long or holds characters outside the charset.
        """
        # The base class would look for special tokens in the text and strip white space around them.
        label = self.clean(text) if (self.clean_labels if clean_labels is None else clean_labels) else text
        name = f"Label {text!r}" + (f", cleaned to {label!r}," if label != text else "")
        if not label:
            raise ValueError(f"{name} is empty: 1 to {self.max_label_length} characters are accepted.")
        outside = sorted({char for char in label if char not in self.vocab})
        if outside:
            raise ValueError(
                f"{name} holds {outside}: accepted are the {len(self.charset)} characters {self._shown()}."
            )
        if len(label) > self.max_label_length:
            raise ValueError(
                f"{name} has {len(label)} characters: at most max_label_length={self.max_label_length} are accepted."
            )
        return list(label)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """
        `[B] c1 .. cn [E]` from the ids of the characters.

        Raises:
            ValueError: if there is a second sequence, which labels do not have.
        """
        if token_ids_1 is not None:
            raise ValueError("A label is one text, got a pair: give a batch of labels as a flat list.")
        return super().build_inputs_with_special_tokens(token_ids_0)

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Joins characters into a text, spaces as they are."""
        return "".join(tokens)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Writes the ids of all tokens as JSON, in the order of the ids; returns the path of the file, in a tuple."""
        name = (filename_prefix + "-" if filename_prefix else "") + VOCAB_FILES_NAMES["vocab_file"]
        path = os.path.join(save_directory, name)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.vocab, file, indent=2, ensure_ascii=False)
            file.write("\n")
        return (path,)

    def _add_tokens(self, new_tokens, special_tokens: bool = False) -> int:
        new = [str(token) for token in new_tokens if str(token) not in self.vocab]
        if new and not special_tokens:  # names such as `cls_token` may be given, which mean nothing here
            raise NotImplementedError(
                f"{new} cannot be added: tokens are the characters of the charset, which `resize_charset` of a model "
                "changes."
            )
        return super()._add_tokens(new_tokens, special_tokens)

    def _convert_token_to_id(self, token: str) -> int:
        if token not in self.vocab:
            raise ValueError(
                f"{token!r} is no token: accepted are the {len(self.charset)} characters {self._shown()}."
            )
        return self.vocab[token]

    def _convert_id_to_token(self, index: int) -> str:
        # To the base class the special tokens are added tokens, which it converts itself.
        if not 1 <= index <= len(self.charset):
            raise ValueError(f"{index} is no id: accepted are 0 to {self.vocab_size - 1}.")
        return self.charset[index - 1]

    def _decode(self, token_ids: int | list[int], *args, **kwargs) -> str:
        # Used by `decode` and `batch_decode`. Ids after the first [E] mean nothing, so no option shows them.
        token_ids = [token_ids] if isinstance(token_ids, int) else token_ids
        skipped = (self.bos_token_id, self.pad_token_id, IGNORE_INDEX)
        until_end = takewhile(lambda index: index != self.eos_token_id, token_ids)
        return "".join(self._convert_id_to_token(index) for index in until_end if index not in skipped)

    def _shown(self) -> str:
        return repr(self.charset) if len(self.charset) <= 200 else f"{self.charset[:200]!r}.."


def _vocabulary(charset: str) -> dict[str, int]:
    return {token: index for index, token in enumerate([END, *charset, BEGIN, PAD])}


def _read_charset(path: str | os.PathLike) -> str:
    with open(path, encoding="utf-8") as file:
        vocab = json.load(file)
    charset = "".join(token for token in sorted(vocab, key=vocab.get) if token not in (END, BEGIN, PAD))
    if vocab != _vocabulary(charset):
        raise ValueError(f"{path} must hold {END} with id 0, then single characters, then {BEGIN} and {PAD}.")
    return charset


__all__ = ["Clip4STRTokenizer"]
