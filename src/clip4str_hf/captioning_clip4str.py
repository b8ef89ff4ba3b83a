# SPDX-License-Identifier: Apache-2.0
"""Turns the prediction of the visual branch into token ids for CLIP's text tower, in tensor operations."""

import gzip
import unicodedata
from pathlib import Path

import torch
from torch import nn
from transformers import initialization as init

from .configuration_clip4str import Clip4STRConfig, joins_neighbours


MERGES_FILE = Path(__file__).with_name("bpe_simple_vocab_16e6.txt.gz")

# Kinds of characters that CLIP's tokenizer tells apart when it splits a text into words.
LETTER, NUMBER, SPACE, OTHER = range(4)
# The last symbol of a word has a token of its own: CLIP numbers it 256 higher than the same symbol inside a word.
END_OF_WORD = 256
BLANK = -1


class Clip4STRCaptioner(nn.Module):
    """
    Turns predicted character ids into caption token ids on the device they are on (arXiv 2305.14014, 3.2):
    the text up to the first end token is lower-cased character by character, reduced to the caption charset and
    encoded with CLIP's byte-pair encoding, without a host round trip, so that reading is one graph.

    The vocabulary follows from its size: 256 byte symbols, the same symbols at the end of a word, as many of CLIP's
    merges as fit, and begin and end of text. 49,408 is CLIP's whole vocabulary; 514 spells every caption in bytes.
    The merges are buffers and are saved with the weights.

    Raises:
        ValueError: if the caption charset holds characters that combine with their neighbours under Unicode NFC,
            which CLIP's tokenizer applies to whole texts.
    """

    def __init__(self, config: Clip4STRConfig):
        super().__init__()
        self.eos_token_id = config.eos_token_id
        self.context_length = config.caption_context_length
        self.vocab_size = config.text_config.vocab_size
        self.charset, self.caption_charset = config.charset, config.caption_charset
        _refuse_combining(self.caption_charset)
        num_merges = self.vocab_size - 2 * END_OF_WORD - 2
        num_bytes = max(len(character.encode()) for character in self.caption_charset)
        num_captioned = len(self.caption_charset) + 1  # and the blank
        # Empty tensors are left out of the state dict: loaded from a file they share their neighbour's address, and
        # `torch.save` refuses two types at one address.
        for name in ("merge_keys", "merge_ranks"):
            self.register_buffer(name, torch.empty(num_merges, dtype=torch.long), persistent=num_merges > 0)
        self.register_buffer("caption_index", torch.empty(config.num_classes, dtype=torch.long), persistent=False)
        self.register_buffer("kinds", torch.empty(num_captioned, dtype=torch.long), persistent=False)
        self.register_buffer("symbols", torch.empty(num_captioned, num_bytes, dtype=torch.long), persistent=False)

    def fill_tables(self):
        """Fills the tables that follow from the character sets."""
        blank = len(self.caption_charset)
        position = {character: index for index, character in enumerate(self.caption_charset)}
        captioned = [blank]  # the end token
        for character in self.charset:
            # At most one character: lower-casing yields several only where it adds combining marks.
            captioned.append(next((position[part] for part in character.lower() if part in position), blank))
        init.copy_(self.caption_index, torch.tensor(captioned))
        init.copy_(self.kinds, torch.tensor([*map(_kind, self.caption_charset), SPACE]))
        id_of_byte = {byte: index for index, byte in enumerate(_symbol_of_byte())}
        width = self.symbols.shape[1]
        rows = []
        for character in self.caption_charset:
            encoded = [] if _kind(character) == SPACE else [id_of_byte[byte] for byte in character.encode()]
            rows.append(encoded + [BLANK] * (width - len(encoded)))
        init.copy_(self.symbols, torch.tensor([*rows, [BLANK] * width]))

    def fill_merges(self):
        """Fills the merge table, unless it was loaded with the weights, from CLIP's own list (package data)."""
        if not len(self.merge_keys) or getattr(self.merge_keys, "_is_hf_initialized", False):
            return
        if not MERGES_FILE.exists():
            raise OSError(
                "CLIP's merges are not beside this code: load a saved reader, or make one with clip4str_hf installed."
            )
        keys, ranks = read_merges(len(self.merge_keys), self.vocab_size)
        init.copy_(self.merge_keys, keys)
        init.copy_(self.merge_ranks, ranks)

    def resized(self, config: Clip4STRConfig) -> "Clip4STRCaptioner":
        """A captioner for the characters of `config`, with these merges and on the same device."""
        captioner = Clip4STRCaptioner(config).to(self.caption_index.device)
        captioner.fill_tables()
        captioner.merge_keys, captioner.merge_ranks = self.merge_keys, self.merge_ranks
        return captioner

    def forward(self, character_ids: torch.LongTensor) -> torch.LongTensor:
        """
        Args:
            character_ids (`torch.LongTensor` of shape `(batch_size, length)`):
                Predicted classes: 0 ends a text, 1 to `len(charset)` are characters.

        Returns:
            `torch.LongTensor` of shape `(batch_size, caption_context_length)`: begin, tokens, end, then zeros. Longer
            captions are cut, but still end with the end token.
        """
        ended = (character_ids == self.eos_token_id).cumsum(-1) > 0
        blank = len(self.caption_charset)
        caption = self.caption_index[character_ids].masked_fill(ended, blank)
        caption = _compact(caption, blank)
        tokens = self._merge(self._byte_symbols(caption))
        return self._frame(tokens)

    def _byte_symbols(self, caption):
        """Byte symbols `(batch_size, length * bytes)` of caption characters, blanks last."""
        symbols = self.symbols[caption]
        is_last_byte = (symbols != BLANK) & (nn.functional.pad(symbols, (0, 1), value=BLANK)[..., 1:] == BLANK)
        ends_word = self._word_ends(caption)[..., None] & is_last_byte
        return _compact((symbols + END_OF_WORD * ends_word).flatten(1), BLANK)

    def _word_ends(self, caption):
        """Where CLIP's splitting pattern ends a word: a run of letters, a single digit or a run of anything else."""
        kinds = self.kinds[caption]
        following = nn.functional.pad(kinds, (0, 1), value=SPACE)[:, 1:]
        ends = (kinds == NUMBER) | (kinds != following)
        if "'" not in self.caption_charset:
            return ends
        # 's 't 'm 'd 're 've 'll are words of their own, unless the apostrophe continues a run of other characters.
        preceding = nn.functional.pad(kinds, (1, 0), value=SPACE)[:, :-1]
        apostrophe = self._is(caption, "'") & (preceding != OTHER)
        first, second = (nn.functional.pad(caption, (0, n), value=len(self.caption_charset))[:, n:] for n in (1, 2))
        short = apostrophe & self._is(first, "stmd")
        long = apostrophe & (
            (self._is(first, "rv") & self._is(second, "e")) | (self._is(first, "l") & self._is(second, "l"))
        )
        after_short, after_long = (
            nn.functional.pad(found, (n, 0), value=False)[:, :-n] for found, n in ((short, 1), (long, 2))
        )
        return ends & ~(short | long) | after_short | after_long

    def _is(self, caption, characters):
        members = [self.caption_charset.find(character) for character in characters]
        return torch.stack([caption == member for member in members]).any(0)

    def _merge(self, tokens):
        """Byte-pair encoding: the pair that is earliest in the list is merged first, of equal pairs the leftmost."""
        if not len(self.merge_keys):
            return tokens
        length = tokens.shape[1]
        tokens = nn.functional.pad(tokens, (0, 1), value=BLANK)
        columns = torch.arange(length + 1, device=tokens.device)
        unmerged = self.vocab_size
        for _ in range(length - 1):
            # Words need no bookkeeping: no pair that begins with the last symbol of a word is in the list.
            keys = tokens[:, :-1] * self.vocab_size + tokens[:, 1:]
            index = torch.searchsorted(self.merge_keys, keys).clamp(max=len(self.merge_keys) - 1)
            is_pair = (self.merge_keys[index] == keys) & (tokens[:, 1:] != BLANK)
            ranks = torch.where(is_pair, self.merge_ranks[index], unmerged)
            rank, left = ranks.min(-1, keepdim=True)
            found = rank < unmerged
            tokens = torch.where(found & (columns == left), 2 * END_OF_WORD + rank, tokens)
            moved = columns + (found & (columns > left))
            tokens = tokens.gather(1, moved.clamp(max=length))
        return tokens[:, :length]

    def _frame(self, tokens):
        """Puts begin and end around the tokens and cuts or zero-pads them to the context length."""
        room = self.context_length - 2
        tokens = nn.functional.pad(tokens[:, :room], (1, max(room - tokens.shape[1], 0) + 1), value=BLANK)
        count = (tokens != BLANK).sum(-1, keepdim=True)
        columns = torch.arange(self.context_length, device=tokens.device)
        tokens = tokens.masked_fill(columns == 0, self.vocab_size - 2)
        tokens = tokens.masked_fill(columns == count + 1, self.vocab_size - 1)
        return tokens.masked_fill(columns > count + 1, 0)


def read_merges(num_merges: int, vocab_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The first `num_merges` merges of CLIP's merges file as a lookup table of pairs.

    Returns:
        `(keys, ranks)`, both `torch.LongTensor` of shape `(num_merges,)`: `left * vocab_size + right` in ascending
        order, and the rank of each in the file.
    """
    with gzip.open(MERGES_FILE, "rt", encoding="utf-8") as file:
        next(file)
        pairs = [tuple(next(file).split()) for _ in range(num_merges)]
    symbols = [*_symbol_of_byte().values()]
    symbols += [symbol + "</w>" for symbol in symbols]
    ids = {token: index for index, token in enumerate([*symbols, *map("".join, pairs)])}
    keys = torch.tensor([ids[left] * vocab_size + ids[right] for left, right in pairs], dtype=torch.long)
    return keys.sort()


def _symbol_of_byte() -> dict[int, str]:
    """
    The 256 bytes in the order of CLIP's first 256 tokens, those printable in Latin-1 before the others, each with the
    character that stands for it in CLIP's files: itself, or one from U+0100 on if it is not printable.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return dict(zip(printable + others, map(chr, [*printable, *range(256, 256 + len(others))])))


def _kind(character: str) -> int:
    if character.isspace():
        return SPACE
    return {"L": LETTER, "N": NUMBER}.get(unicodedata.category(character)[0], OTHER)


def _refuse_combining(charset: str):
    refused = [character for character in charset if joins_neighbours(character)]
    if refused:
        raise ValueError(
            f"caption_charset holds characters that join their neighbours, which captions cannot: {refused}. "
            "Use composed characters, or leave these out."
        )


def _compact(values, blank):
    """Moves everything that is not blank to the front of its row, keeping the order."""
    return values.gather(1, (values == blank).long().argsort(dim=1, stable=True))


__all__ = ["Clip4STRCaptioner"]
