# SPDX-License-Identifier: Apache-2.0
"""Clip4STR model configuration."""

import math
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, PreTrainedConfig


if TYPE_CHECKING:
    # Never executed. A configuration is saved with its code (`_auto_class`): this file and all files that relative
    # imports reach from here. A checkpoint needs all of them.
    from .pipeline_clip4str import Clip4STRPipeline  # noqa: F401


# Where the code of a saved checkpoint is, for those who load it without this package.
AUTO_MAP = {
    "AutoConfig": "configuration_clip4str.Clip4STRConfig",
    "AutoModel": "modeling_clip4str.Clip4STRForSceneTextRecognition",
    "AutoModelForImageTextToText": "modeling_clip4str.Clip4STRForSceneTextRecognition",
    "AutoModelForTextRecognition": "modeling_clip4str.Clip4STRForSceneTextRecognition",
    "AutoProcessor": "processing_clip4str.Clip4STRProcessor",
}
CUSTOM_PIPELINES = {
    task: {"impl": "pipeline_clip4str.Clip4STRPipeline", "pt": ["AutoModelForImageTextToText"]}
    for task in ("image-to-text", "image-text-to-text")
}

DEFAULT_CHARSET = string.digits + string.ascii_lowercase + string.ascii_uppercase + string.punctuation
DEFAULT_CAPTION_CHARSET = string.digits + string.ascii_lowercase
CLIP_VOCAB_SIZE = 49_408
# Of labels and targets at positions that losses pass over.
IGNORE_INDEX = -100


class Clip4STRConfig(PreTrainedConfig):
    r"""
    Configuration of a [`Clip4STRForSceneTextRecognition`]: a whole CLIP (text and vision) and the parts that turn it
    into a reader of words (CLIP4STR, arXiv 2305.14014). The defaults are those of the released ViT-B models.

    Character ids follow the original: end of text is 0, the characters of `charset` are 1 to `len(charset)`, then come
    the begin token and the padding token. The heads predict only the end token and the characters.

    Args:
        text_config (`dict` or `CLIPTextConfig`, *optional*):
            The text tower.
        vision_config (`dict` or `CLIPVisionConfig`, *optional*):
            The image tower.
        image_size (`int` or `list[int]`, *optional*):
            Height and width of the input images in pixels, or the side of square ones. Defaults to the size of the
            image tower; for any other size the position embeddings of the tower are interpolated.
        charset (`str` or `list[str]`, *optional*, defaults to digits, lower case, upper case and ASCII punctuation):
            The characters that can be read, in the order of their ids, each a single code point.
        max_label_length (`int`, *optional*, defaults to 25):
            The longest text in characters (T in the paper); the decoders have one more position, for the end token.
        caption_charset (`str` or `list[str]`, *optional*):
            The characters of the lower-cased visual prediction that the caption of the cross-modal branch keeps.
            Defaults to [`caption_characters`]: the letters, digits and space of `charset`, lower-cased, with the marks
            that belong to letters.
        caption_context_length (`int`, *optional*, defaults to 16):
            Tokens of a caption, begin and end included; longer captions are cut, but still end with the end token.
        decoder_layers (`int`, *optional*, defaults to 1):
            Depth of both decoders.
        decoder_attention_heads (`int`, *optional*, defaults to 8):
            Attention heads of both decoders.
        decoder_mlp_ratio (`int`, *optional*, defaults to 4):
            Ratio of the width of the decoders' MLP to their hidden size.
        decoder_dropout (`float`, *optional*, defaults to 0.1):
            Dropout of the decoders: embeddings, attention weights, MLP and residual branches.
        decoder_layer_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of the decoders' layer norms.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the truncated normal that initialises the decoders.
        num_frozen_text_layers (`int`, *optional*, defaults to 6):
            Number of first layers of the text tower that are frozen; 0 freezes only the embeddings, -1 nothing.
        num_frozen_image_layers (`int`, *optional*, defaults to -1):
            Number of first layers of the image tower that are frozen; 0 freezes only the embeddings and the layer
            norm that follows them, -1 nothing.
        detach_image_features (`bool`, *optional*, defaults to `True`):
            Whether the gradient of the cross-modal loss stops at the image features.
        cross_modal_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of the cross-modal branch in the loss. With 0, that branch and the text tower are neither trained
            nor, by default, run by `generate`: the reader is the visual branch alone.
        num_permutations (`int`, *optional*, defaults to 6):
            Number of orderings of the characters in the training loss (K in the paper): 1 (left to right), or an even
            number, as every ordering is followed by its mirror.
        confidence_temperature (`float`, *optional*, defaults to 1.0):
            Divisor of the logits of an answer that makes its confidences match how often it is right. It changes no
            text and no loss. [`~metrics.calibration.fit_temperature`] finds it.

    Raises:
        ValueError: if values do not fit together; the message names the value and what is accepted.

    Example:

    ```python
    >>> from clip4str_hf import Clip4STRConfig, Clip4STRForSceneTextRecognition

    >>> configuration = Clip4STRConfig()
    >>> model = Clip4STRForSceneTextRecognition(configuration)  # random weights
    ```"""

    model_type = "clip4str"
    _auto_class = "AutoConfig"
    # Outputs that `Trainer` need not gather over a whole evaluation set.
    keys_to_ignore_at_inference = [
        "visual_logits",
        "image_features",
        "encoder_attentions",
        "cross_attentions",
        "visual_cross_attentions",
    ]
    sub_configs = {"text_config": CLIPTextConfig, "vision_config": CLIPVisionConfig}

    text_config: dict | CLIPTextConfig | None = None
    vision_config: dict | CLIPVisionConfig | None = None
    image_size: int | Sequence[int] | None = None
    charset: str | Sequence[str] = DEFAULT_CHARSET
    max_label_length: int = 25
    caption_charset: str | Sequence[str] | None = None
    caption_context_length: int = 16
    decoder_layers: int = 1
    decoder_attention_heads: int = 8
    decoder_mlp_ratio: int = 4
    decoder_dropout: float = 0.1
    decoder_layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    num_frozen_text_layers: int = 6
    num_frozen_image_layers: int = -1
    detach_image_features: bool = True
    cross_modal_loss_weight: float = 1.0
    num_permutations: int = 6
    confidence_temperature: float = 1.0

    def __post_init__(self, **kwargs):
        self.text_config = _sub_config(CLIPTextConfig, self.text_config)
        self.vision_config = _sub_config(CLIPVisionConfig, self.vision_config)
        size = self.vision_config.image_size if self.image_size is None else self.image_size
        self.image_size = list(size) if isinstance(size, Iterable) else [size] * 2
        self.charset = characters("charset", self.charset)
        if self.caption_charset is None:
            self.caption_charset = caption_characters(self.charset)
        self.caption_charset = characters("caption_charset", self.caption_charset)
        if not is_remote_code():
            # With the package installed its own code is used, and `pipeline` need not ask for trust in remote code.
            kwargs = {name: value for name, value in kwargs.items() if name not in ("auto_map", "custom_pipelines")}
        super().__post_init__(**kwargs | self._token_ids())
        self.validate_reader()

    @classmethod
    def from_clip_config(cls, clip_config: CLIPConfig, **kwargs) -> "Clip4STRConfig":
        """The configuration of a reader built on the CLIP of `clip_config`; `kwargs` are this class's arguments."""
        towers = {"text_config": clip_config.text_config, "vision_config": clip_config.vision_config}
        # `CLIPModel` sizes its projections by the shared `projection_dim`, separate towers by their own.
        towers = {
            name: tower.to_dict() | {"projection_dim": clip_config.projection_dim} for name, tower in towers.items()
        }
        return cls(**towers | kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs) -> "Clip4STRConfig":
        """
        As in every configuration, but the characters of captions follow a `charset` that `kwargs` change. `image_size`
        stays as it was saved, whatever `kwargs` make of the image tower.
        """
        names = cls.field_names() - set(cls.sub_configs)
        own = {name: kwargs.pop(name) for name in list(kwargs) if name in names}
        if "charset" in own:
            config_dict = {**config_dict, "caption_charset": None}
        # Merged here, as the base class would change the towers only after they have been checked.
        for name in cls.sub_configs:
            if isinstance(kwargs.get(name), dict):
                own[name] = config_dict.get(name, {}) | kwargs.pop(name)
        return super().from_dict({**config_dict, **own}, **kwargs)

    def get_text_config(self, *args, **kwargs) -> "Clip4STRConfig":
        """This configuration itself: the model's texts are its characters; CLIP's text tower only sees captions."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """All fields, and where the code of a saved checkpoint is."""
        return super().to_dict() | {"auto_map": AUTO_MAP, "custom_pipelines": CUSTOM_PIPELINES}

    def save_pretrained(self, save_directory, **kwargs):
        """Writes `config.json` and the code of the model; see `PreTrainedConfig.save_pretrained`."""
        self.validate_reader()
        super().save_pretrained(save_directory, **kwargs)
        if not is_remote_code():
            self.__dict__.pop("auto_map", None)  # set while saving, but no field of this configuration

    @classmethod
    def field_names(cls) -> set[str]:
        """The names of this class's own arguments."""
        names, inherited = ({field.name for field in fields(each)} for each in (cls, PreTrainedConfig))
        return names - inherited

    @property
    def hidden_size(self) -> int:
        """Width of both decoders and of the features they read: CLIP's projection size (D in the paper)."""
        return self.vision_config.projection_dim

    @property
    def num_classes(self) -> int:
        """Number of classes that a head predicts: the end token and the characters."""
        return len(self.charset) + 1

    @property
    def vocab_size(self) -> int:
        """Rows of the character embeddings: the classes, the begin token and the padding token."""
        return len(self.charset) + 3

    def validate_reader(self):
        """Raises `ValueError` if values are not accepted, or do not fit together."""
        self._validate_numbers()
        self._validate_fit()

    def _validate_numbers(self):
        for name in (
            "caption_context_length",
            "num_frozen_image_layers",
            "num_frozen_text_layers",
            "num_permutations",
        ):
            if type(getattr(self, name)) is not int:
                raise ValueError(f"{name}={getattr(self, name)!r} must be a whole number.")
        for name in ("max_label_length", "decoder_layers", "decoder_attention_heads", "decoder_mlp_ratio"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be a whole number of at least 1.")
        for name in ("confidence_temperature", "decoder_layer_norm_eps", "initializer_range"):
            if not _is_finite(getattr(self, name)) or getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must be a finite number of more than 0.")
        if not _is_finite(self.cross_modal_loss_weight) or self.cross_modal_loss_weight < 0:
            raise ValueError(
                f"cross_modal_loss_weight={self.cross_modal_loss_weight!r} must be a finite number of at least 0."
            )
        if not isinstance(self.detach_image_features, bool):
            raise ValueError(f"detach_image_features={self.detach_image_features!r} must be True or False.")
        if not _is_finite(self.decoder_dropout) or not 0 <= self.decoder_dropout < 1:
            raise ValueError(f"decoder_dropout={self.decoder_dropout!r} must lie in [0, 1).")
        if self.num_permutations != 1 and (self.num_permutations < 2 or self.num_permutations % 2):
            raise ValueError(
                f"num_permutations={self.num_permutations} must be 1 or even: orderings come with mirrors."
            )

    def _token_ids(self) -> dict[str, int]:
        # They follow from the character set; saved files repeat them only for other readers of the file.
        return {"eos_token_id": 0, "bos_token_id": len(self.charset) + 1, "pad_token_id": len(self.charset) + 2}

    def _validate_fit(self):
        text, vision = self.text_config, self.vision_config
        ids = self._token_ids()
        stale = {name: getattr(self, name) for name in ids if getattr(self, name) != ids[name]}
        if stale:
            raise ValueError(
                f"{stale} do not belong to the {len(self.charset)} characters of the charset, which has been changed: "
                "make a new configuration, `Clip4STRConfig.from_pretrained(.., charset=..)`."
            )
        if text.projection_dim != vision.projection_dim:
            raise ValueError(
                f"The projections of both towers must have one size, got text_config.projection_dim="
                f"{text.projection_dim} and vision_config.projection_dim={vision.projection_dim}."
            )
        if self.hidden_size % self.decoder_attention_heads:
            raise ValueError(
                f"decoder_attention_heads={self.decoder_attention_heads} must divide "
                f"projection_dim={self.hidden_size}."
            )
        if not 514 <= text.vocab_size <= CLIP_VOCAB_SIZE:
            raise ValueError(
                f"text_config.vocab_size={text.vocab_size} must lie between 514, CLIP's 512 byte symbols, begin and "
                f"end, and CLIP's own {CLIP_VOCAB_SIZE}: captions are spelt with CLIP's byte pairs, and a text tower "
                "with another vocabulary would not understand them."
            )
        uncased = [character for character in self.caption_charset if character != character.lower()]
        if uncased:
            raise ValueError(f"caption_charset must be lower case, as captions are, got {uncased}.")
        patch = vision.patch_size
        sides = self.image_size if isinstance(self.image_size, list) else []
        if [type(side) is int and side >= patch and side % patch == 0 for side in sides] != [True, True]:
            raise ValueError(
                f"image_size={self.image_size} must be [height, width], both multiples of the patch size {patch}."
            )
        if not 3 <= self.caption_context_length <= text.max_position_embeddings:
            raise ValueError(
                f"caption_context_length={self.caption_context_length} must lie between 3 and the "
                f"{text.max_position_embeddings} positions of the text tower."
            )
        for name, tower in (("num_frozen_text_layers", text), ("num_frozen_image_layers", vision)):
            if not -1 <= getattr(self, name) <= tower.num_hidden_layers:
                raise ValueError(
                    f"{name}={getattr(self, name)} must lie between -1 and the tower's "
                    f"{tower.num_hidden_layers} layers."
                )


def characters(name: str, charset: str | Sequence[str]) -> str:
    """
    A character set as one string, in the given order.

    Raises:
        ValueError: if it is empty, holds an entry that is not a single code point, or holds a character twice.
    """
    entries = list(charset)
    if not entries:
        raise ValueError(f"{name} is empty: at least one character is needed.")
    wrong = [entry for entry in entries if not isinstance(entry, str) or len(entry) != 1]
    if wrong:
        raise ValueError(f"{name} must hold single characters, got {wrong}.")
    repeated = sorted(entry for entry, count in Counter(entries).items() if count > 1)
    if repeated:
        raise ValueError(f"{name} holds characters more than once: {repeated}.")
    return "".join(entries)


def caption_characters(charset: str | Sequence[str]) -> str:
    """
    The characters that captions keep by default for texts of `charset`: its letters, digits and marks of any script,
    except those that join their neighbours, and the space, lower-cased and in their order. For the default 94
    characters these are `0-9a-z`, as in the paper, which also stand in where none are left.
    """
    lowered = dict.fromkeys(part for character in charset for part in character.lower())
    return "".join(filter(_is_captioned, lowered)) or DEFAULT_CAPTION_CHARSET


def _is_captioned(character: str) -> bool:
    # Marks are parts of words (the vowel signs of Thai), but captions hold none that join their neighbours.
    is_word = unicodedata.category(character)[0] in "LNM" and not joins_neighbours(character)
    return is_word or character == " "


def joins_neighbours(character: str) -> bool:
    """Whether Unicode's composition (NFC) may change this character or its neighbours."""
    return (
        unicodedata.normalize("NFC", character) != character
        or bool(unicodedata.combining(character))
        or "\u1160" <= character <= "\u11ff"  # vowels and finals of Korean syllables
    )


def is_remote_code() -> bool:
    """Whether this code was loaded from a checkpoint instead of the package."""
    return __name__.startswith("transformers_modules")


def _is_finite(value) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _sub_config(config_class, value):
    if value is None:
        return config_class()
    return config_class(**value) if isinstance(value, dict) else value


__all__ = ["Clip4STRConfig"]
