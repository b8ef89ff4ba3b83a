# SPDX-License-Identifier: Apache-2.0
"""PyTorch Clip4STR model: CLIP's towers, two permuted-language-modelling decoders and the training loss."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import CLIPModel, CLIPTextModelWithProjection, CLIPVisionModelWithProjection, DynamicCache
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import ModelOutput

from .captioning_clip4str import Clip4STRCaptioner
from .card_clip4str import TAGS, complete_card
from .configuration_clip4str import IGNORE_INDEX, Clip4STRConfig
from .generation_clip4str import Clip4STRGenerationMixin, after_end


@dataclass
class Clip4STROutput(ModelOutput):
    """
    Output of [`Clip4STRForSceneTextRecognition`].

    Args:
        loss (`torch.FloatTensor`, a scalar, *optional*, returned when `labels` is given):
            Permuted-language-modelling loss of both branches.
        logits (`torch.FloatTensor` of shape `(batch_size, positions, num_classes)`):
            Scores before softmax of the cross-modal branch, or of the visual one if it reads alone. Without labels:
            those of the reading, by default at `max_label_length + 1` positions after refinement, divided by the
            configuration's `confidence_temperature`. With labels: those from left to right given the labels, at as
            many positions as the longest label with its end.
        visual_logits (`torch.FloatTensor` of the shape of `logits`):
            The same for the visual branch, never divided; without refinements it may have fewer positions.
        image_features (`torch.FloatTensor` of shape `(batch_size, patches + 1, hidden_size)`):
            Projected features of all tokens of the image tower.
        encoder_attentions (`tuple[torch.FloatTensor]`, *optional*, returned with `output_attentions=True`):
            Attention weights of the image tower, `(batch_size, heads, patches + 1, patches + 1)` per layer.
        cross_attentions (`tuple[torch.FloatTensor]`, *optional*, returned with `output_attentions=True`):
            Weights of the cross-modal decoder over its memory, image tokens first, then caption tokens: `(batch_size,
            heads, positions, patches + 1 + caption_context_length)` per layer.
        visual_cross_attentions (`tuple[torch.FloatTensor]`, *optional*, returned with `output_attentions=True`):
            The same for the visual decoder, `(batch_size, heads, positions, patches + 1)` per layer.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    visual_logits: torch.FloatTensor | None = None
    image_features: torch.FloatTensor | None = None
    encoder_attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    visual_cross_attentions: tuple[torch.FloatTensor, ...] | None = None


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    weights = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    dropped = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (dropped @ value).transpose(1, 2).contiguous(), weights


class Clip4STRAttention(nn.Module):
    """Multi-head attention whose keys and values are projected in a separate step, so that they can be kept."""

    def __init__(self, config: Clip4STRConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.decoder_attention_heads
        self.scaling = self.head_dim**-0.5
        self.dropout = config.decoder_dropout
        self.is_causal = False  # otherwise a missing mask would be taken for a causal one
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def keys_and_values(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values `(batch_size, heads, length, head_dim)` of `states`, `(batch_size, length, hidden_size)`."""
        return self._split_heads(self.k_proj(states)), self._split_heads(self.v_proj(states))

    def forward(self, states, keys, values, attention_mask=None):
        """`attention_mask`: bool, true where a query sees a key, broadcastable to `(batch_size, 1, queries, keys)`."""
        implementation = self.config._attn_implementation
        if attention_mask is not None and "flash" in (implementation or ""):
            implementation = "sdpa"  # the flash kernels take no mask of query-key pairs
        if attention_mask is not None and implementation != "sdpa":  # the others add their masks to the scores
            hidden = torch.finfo(states.dtype).min
            attention_mask = torch.zeros_like(attention_mask, dtype=states.dtype).masked_fill(~attention_mask, hidden)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        output, weights = attention(
            self,
            self._split_heads(self.q_proj(states)),
            keys,
            values,
            attention_mask,
            scaling=self.scaling,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.out_proj(output.reshape(states.shape)), weights

    def _split_heads(self, states):
        return states.view(*states.shape[:-1], -1, self.head_dim).transpose(1, 2)


class Clip4STRMLP(nn.Module):
    def __init__(self, config: Clip4STRConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.decoder_mlp_ratio * config.hidden_size)
        self.fc2 = nn.Linear(config.decoder_mlp_ratio * config.hidden_size, config.hidden_size)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(config.decoder_dropout)

    def forward(self, states):
        return self.fc2(self.dropout(self.activation(self.fc1(states))))


class Clip4STRDecoderLayer(GradientCheckpointingLayer):
    """
    A pre-norm layer with two streams: the queries ask which character is at their position, the content is the text
    given as context. Both go through the same weights; the content is updated only if another layer reads it.
    """

    def __init__(self, config: Clip4STRConfig, layer_idx: int):
        super().__init__()
        self.layer_idx = layer_idx
        self.updates_content = layer_idx + 1 < config.decoder_layers
        self.self_attn = Clip4STRAttention(config)
        self.cross_attn = Clip4STRAttention(config)
        self.mlp = Clip4STRMLP(config)
        self.norm_query = nn.LayerNorm(config.hidden_size, eps=config.decoder_layer_norm_eps)
        self.norm_content = nn.LayerNorm(config.hidden_size, eps=config.decoder_layer_norm_eps)
        self.norm_cross = nn.LayerNorm(config.hidden_size, eps=config.decoder_layer_norm_eps)
        self.norm_mlp = nn.LayerNorm(config.hidden_size, eps=config.decoder_layer_norm_eps)
        self.dropout = nn.Dropout(config.decoder_dropout)

    def forward(self, query, content, memory, query_mask=None, content_mask=None, cache=None):
        content_states = self.norm_content(content)
        context = self.self_attn.keys_and_values(content_states)
        if cache is not None:
            context = cache.update(*context, self.layer_idx)
        query, weights = self._stream(query, self.norm_query(query), context, memory, query_mask)
        if self.updates_content:
            content, _ = self._stream(content, content_states, context, memory, content_mask)
        return query, content, weights

    def _stream(self, states, normed, context, memory, mask):
        attended, _ = self.self_attn(normed, *context, mask)
        states = states + self.dropout(attended)
        # All orderings of an image that are trained together attend to its memory at once.
        normed = self.norm_cross(states).view(memory[0].shape[0], -1, states.shape[-1])
        attended, weights = self.cross_attn(normed, *memory)
        states = states + self.dropout(attended.view_as(states))
        return states + self.dropout(self.mlp(self.norm_mlp(states))), weights


class Clip4STRDecoder(nn.Module):
    """
    The decoder of PARSeq (arXiv 2207.06966), one for each branch: reads characters from a memory of features, with any
    part of the text as context.
    """

    def __init__(self, config: Clip4STRConfig):
        super().__init__()
        self.embedding_scale = math.sqrt(config.hidden_size)
        self.character_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_queries = nn.Parameter(torch.empty(1, config.max_label_length + 1, config.hidden_size))
        self.layers = nn.ModuleList(
            Clip4STRDecoderLayer(config, layer_idx) for layer_idx in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.decoder_layer_norm_eps)
        self.head = nn.Linear(config.hidden_size, config.num_classes)
        self.dropout = nn.Dropout(config.decoder_dropout)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        memory: list[tuple[torch.Tensor, torch.Tensor]] | None = None,
        query_mask: torch.BoolTensor | None = None,
        content_mask: torch.BoolTensor | None = None,
        cache: DynamicCache | None = None,
        num_queries: int | None = None,
        features: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, tuple] | list[tuple[torch.Tensor, torch.Tensor]]:
        """
        Reads a memory or, given `features`, makes one. Both happen here because FSDP and device maps (which must put
        both decoders on one device) gather or move parameters around `forward`. Pass the first argument by position,
        as some wrappers of modules (PEFT's `modules_to_save`) require.

        Args:
            input_ids (`torch.LongTensor` of shape `(rows, length)`):
                The context, begin token first. With a cache: the tokens that the cache does not hold yet.
            memory:
                Made from features, for `rows` images, or for `rows / n` images whose n rows are side by side.
            query_mask, content_mask (`torch.BoolTensor`, *optional*):
                True where a position sees a token, broadcastable to `(rows, 1, positions, length)`.
            cache (`DynamicCache`, *optional*):
                Keys and values of the context so far; extended in place.
            num_queries (`int`, *optional*):
                Number of positions to predict, from the first not in the cache; by default the length of `input_ids`.
            features (`torch.Tensor` of shape `(batch_size, tokens, hidden_size)`, *optional*):
                What to make a memory from: keys and values for the cross-attention of each layer, `(batch_size, heads,
                tokens, head_dim)`.

        Returns:
            Logits of shape `(rows, positions, num_classes)` and the weights over the memory, layer by layer. Query k
            predicts the character after token k. With `features`, the memory.
        """
        if features is not None:
            return [layer.cross_attn.keys_and_values(features) for layer in self.layers]
        start = cache.get_seq_length() if cache is not None else 0
        content = self._embed(input_ids, start)
        stop = start + (input_ids.shape[1] if num_queries is None else num_queries)
        query = self.position_queries[:, start:stop].expand(input_ids.shape[0], -1, -1)
        query = self.dropout(query)
        attentions: tuple[torch.Tensor, ...] = ()
        for layer, layer_memory in zip(self.layers, memory):
            query, content, weights = layer(query, content, layer_memory, query_mask, content_mask, cache)
            attentions += (weights,)
        return self.head(self.norm(query)), attentions

    def check_resizable(self):
        """Raises `ValueError` if characters are embedded or told apart by more than plain weights in memory."""
        for name, kind in (("character_embedding", nn.Embedding), ("head", nn.Linear)):
            module = getattr(self, name)
            if type(module) is not kind or type(module.weight.data) is not torch.Tensor or module.weight.is_meta:
                raise ValueError(
                    f"{name} is {type(module).__name__} on {module.weight.device}: resize the charset before you add "
                    "adapters, quantise or offload."
                )

    @torch.no_grad()
    def resize(self, rows: list[int | None], num_positions: int):
        """
        Changes the characters and the number of positions; the weights of those that old and new share are kept.

        Args:
            rows (`list[int]`): for each token of the new vocabulary its id in the old one, `None` for a new one.
            num_positions (`int`): number of positions, including that of the end token.
        """
        embedding, head, queries = self.character_embedding, self.head, self.position_queries
        embedding.weight = _like(embedding.weight, _resized(embedding.weight, rows))
        embedding.num_embeddings = len(rows)
        classes = rows[:-2]  # begin and padding are never predicted
        head.weight, head.bias = (_like(old, _resized(old, classes)) for old in (head.weight, head.bias))
        head.out_features = len(classes)
        known = queries.shape[1]
        positions = [place if place < known else None for place in range(num_positions)]
        self.position_queries = _like(queries, _resized(queries[0], positions)[None])

    def _embed(self, input_ids, start):
        embedded = self.embedding_scale * self.character_embedding(input_ids)
        # The begin token has no position; token k >= 1 has that of the query that predicted it.
        positions = self.position_queries[:, max(start - 1, 0) : start + input_ids.shape[1] - 1]
        embedded[:, embedded.shape[1] - positions.shape[1] :] += positions
        return self.dropout(embedded)


class Clip4STRPreTrainedModel(PreTrainedModel):
    config_class = Clip4STRConfig
    base_model_prefix = "clip4str"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a mean over the characters of all orderings
    _no_split_modules = ["CLIPEncoderLayer", "CLIPVisionEmbeddings", "CLIPTextEmbeddings", "Clip4STRDecoder"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module):
        """Truncated normal for the decoders; the towers initialise themselves."""
        std = self.config.initializer_range
        if isinstance(module, Clip4STRCaptioner):
            module.fill_tables()
            module.fill_merges()
        elif isinstance(module, Clip4STRDecoder):
            init.trunc_normal_(module.position_queries, std=std)
        elif isinstance(module, (nn.Linear, nn.Embedding)):
            init.trunc_normal_(module.weight, std=std)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)


class Clip4STRForSceneTextRecognition(Clip4STRPreTrainedModel, Clip4STRGenerationMixin):
    """
    Reads the word in an image: CLIP's image tower, a visual branch that predicts the text, CLIP's text tower for that
    prediction, and a cross-modal branch that reads image and prediction together (CLIP4STR, arXiv 2305.14014).

    Args:
        config ([`Clip4STRConfig`]): all sizes, the characters, and what is trained.

    Example:

    ```python
    >>> from PIL import Image
    >>> from clip4str_hf import Clip4STRForSceneTextRecognition, Clip4STRProcessor, default_checkpoint

    >>> processor = Clip4STRProcessor.from_pretrained(default_checkpoint())
    >>> model = Clip4STRForSceneTextRecognition.from_pretrained(default_checkpoint())
    >>> inputs = processor(images=Image.open("word.png"), return_tensors="pt")
    >>> outputs = model.generate(**inputs, return_dict_in_generate=True)
    >>> processor.post_process_text_recognition(outputs)  # [{"text": ..., "score": ..., "char_scores": [...]}]
    ```"""

    def __init__(self, config: Clip4STRConfig):
        config.validate_reader()  # its fields may have been changed since it was made
        super().__init__(config)
        self.model_tags = [*TAGS]  # a copy, as pushing adds to the list
        self.loaded_from = {}
        # In the dtype of the rest of the model, whatever dtype a tower's configuration was saved with.
        self.vision_tower = CLIPVisionModelWithProjection._from_config(config.vision_config, dtype=None)
        self.text_tower = CLIPTextModelWithProjection._from_config(config.text_config, dtype=None)
        self.captioner = Clip4STRCaptioner(config)
        self.visual_decoder = Clip4STRDecoder(config)
        self.cross_decoder = Clip4STRDecoder(config)
        self.post_init()
        self._set_generation_defaults()
        self._freeze_layers()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Loads a saved reader and freezes its frozen layers; arguments and errors are those of `PreTrainedModel`."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        # Loading creates new parameters, all of them trainable.
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model._freeze_layers()
        # For loading its processor. Without the token: a model may be pickled and passed on.
        places = ("cache_dir", "local_files_only", "revision", "subfolder")
        model.loaded_from = {name: kwargs[name] for name in places if kwargs.get(name)}
        for name in Clip4STRConfig.field_names() & kwargs.keys():  # which are no options of generation
            model.generation_config.__dict__.pop(name, None)
        model.generation_config.update(**model._token_ids())  # the charset may differ from the saved one
        saved = model._saved_config(pretrained_model_name_or_path, kwargs.get("token"))
        if model.config.max_label_length != saved.max_label_length:
            model.generation_config.update(max_length=model.config.max_label_length + 2, max_new_tokens=None)
        trained = bool(model.config.cross_modal_loss_weight)
        if not trained or not saved.cross_modal_loss_weight:
            # Whatever was saved: the cross-modal branch answers if and only if it is trained.
            model.generation_config.visual_only = not trained
        model._complete_generation_config()
        return loaded

    def _saved_config(self, name, token) -> Clip4STRConfig:
        """
        The configuration as it was saved. The auto classes change its fields before they load a model, and pass the
        result as `config`.
        """
        if name is None:  # the weights came as a `state_dict`
            return self.config
        options = self.loaded_from | {"token": token, "_commit_hash": getattr(self.config, "_commit_hash", None)}
        try:
            return self.config_class.from_pretrained(name, **options)
        except OSError:  # the weights lie there without one, or it is a folder of adapters
            return self.config

    @classmethod
    def from_clip_pretrained(
        cls, clip: str | os.PathLike | CLIPModel, config: Clip4STRConfig | None = None, **kwargs
    ) -> Clip4STRForSceneTextRecognition:
        """
        Builds a reader from the towers of a CLIP and new decoders.

        Args:
            clip (`str`, `os.PathLike` or `CLIPModel`):
                A CLIP checkpoint on the Hub, a local folder, or a model that is already loaded.
            config ([`Clip4STRConfig`], *optional*):
                The whole configuration; by default CLIP's own with the defaults of [`Clip4STRConfig`].
            kwargs:
                Fields of [`Clip4STRConfig`] to set (`charset=`, `max_label_length=`, `image_size=`, ...). The others
                go to `CLIPModel.from_pretrained` (`revision=`, `dtype=`, `cache_dir=`, ...).

        Raises:
            ValueError: if this CLIP lacks weights or does not fit the configuration, if both `config` and fields are
                given, if `output_loading_info` is asked for, or if other arguments come with a model that is already
                loaded.
        """
        fields = {name: kwargs.pop(name) for name in list(kwargs) if name in Clip4STRConfig.field_names()}
        if kwargs.pop("output_loading_info", False):
            raise ValueError("output_loading_info=True does not apply: weights that are missing are an error here.")
        if not isinstance(clip, CLIPModel):
            name = clip
            clip, loading = CLIPModel.from_pretrained(name, output_loading_info=True, **kwargs)
            if loading["missing_keys"]:
                raise ValueError(
                    f"{name} is no CLIP with both of CLIP's towers, it lacks {sorted(loading['missing_keys'])[:5]}. "
                    "Text towers of another kind (XLM-R, BERT, SigLIP, ..) do not take CLIP's byte pairs, in which "
                    "captions are spelt."
                )
        elif kwargs:
            raise ValueError(
                f"Arguments {sorted(kwargs)} are no fields of Clip4STRConfig, and the CLIPModel is loaded."
            )
        if config is None:
            config = Clip4STRConfig.from_clip_config(clip.config, **fields)
        elif fields:
            raise ValueError(f"Give a whole config or fields of one ({sorted(fields)}), not both.")
        config = copy.deepcopy(config)
        config.dtype = clip.dtype
        parts = {"": clip.config, "text_config": clip.config.text_config, "vision_config": clip.config.vision_config}
        implementations = {name: part._attn_implementation for name, part in parts.items()}
        reader = cls._from_config(config, dtype=clip.dtype, attn_implementation=implementations)
        for tower, beginnings in (
            (reader.vision_tower, ("vision_model.", "visual_projection.")),
            (reader.text_tower, ("text_model.", "text_projection.")),
        ):
            state = {name: tensor for name, tensor in clip.state_dict().items() if name.startswith(beginnings)}
            try:
                tower.load_state_dict(state)
            except RuntimeError as error:
                raise ValueError(f"This CLIP does not fit the configuration: {error}") from error
        return reader.to(clip.device).eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_tower.get_input_embeddings()

    def resize_token_embeddings(self, *args, **kwargs):
        """
        Not supported: the vocabulary follows from the characters; use `resize_charset` to change them.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("The vocabulary follows from the characters: `resize_charset` changes them.")

    def resize_charset(
        self,
        charset: str | Sequence[str] | None = None,
        max_label_length: int | None = None,
        caption_charset: str | Sequence[str] | None = None,
        caption_context_length: int | None = None,
    ):
        """
        Adapts this reader to other characters, or to longer or shorter texts, in the manner of
        `resize_token_embeddings`: configuration, generation configuration, decoders and captions change, and all that
        can be kept is kept. Characters in both sets, `[E]`, `[B]` and `[P]` keep their embeddings and their rows in
        the heads, whatever their ids become, and positions within both lengths keep their queries. New ones are drawn
        at random with the mean and standard deviation of the old ones, and have to be trained. Call it before creating
        an optimizer; the processor is then `Clip4STRProcessor.from_config(model.config, ...)`.

        Args:
            charset (`str` or `list[str]`, *optional*):
                The new characters in the order of their ids; the old ones by default.
            max_label_length (`int`, *optional*):
                The new longest text in characters; the old one by default. If given, the generation configuration's
                `max_length` becomes that of the longest text, and `max_new_tokens` is unset.
            caption_charset (`str` or `list[str]`, *optional*):
                The characters that captions keep; by default the old ones, or, with a new `charset`, those that
                [`caption_characters`] takes from it.
            caption_context_length (`int`, *optional*):
                Tokens of a caption; the old number by default. A text tower that spells in bytes needs two tokens for
                a Greek or Cyrillic letter, and three for a letter of most other scripts.

        Raises:
            ValueError: if the new values do not fit this model, or its decoders have adapters, are quantised or
                offloaded; nothing is changed then.
        """
        for decoder in (self.visual_decoder, self.cross_decoder):
            decoder.check_resizable()
        changes = {
            "charset": charset,
            "max_label_length": max_label_length,
            "caption_charset": caption_charset,
            "caption_context_length": caption_context_length,
        }
        changes = {name: value for name, value in changes.items() if value is not None}
        old, new = self.config, Clip4STRConfig.from_dict(self.config.to_dict(), **changes)
        captioner = self.captioner.resized(new)

        place = {character: index for index, character in enumerate(old.charset, start=1)}
        rows = [old.eos_token_id, *map(place.get, new.charset), old.bos_token_id, old.pad_token_id]
        for decoder in (self.visual_decoder, self.cross_decoder):
            decoder.resize(rows, new.max_label_length + 1)
        self.captioner = captioner
        # In place, as the decoders' layers hold this very configuration.
        for name in (*changes, "caption_charset", "bos_token_id", "pad_token_id"):
            setattr(self.config, name, getattr(new, name))
        self.generation_config.update(**self._token_ids())
        if max_label_length is not None:
            self.generation_config.update(max_length=new.max_label_length + 2, max_new_tokens=None)

    def get_image_features(self, pixel_values: torch.FloatTensor) -> torch.FloatTensor:
        """
        Projected features of all tokens, class token first, `(batch_size, patches + 1, hidden_size)`, of images
        `(batch_size, channels, height, width)`. CLIP's post layer norm is applied to every token.
        """
        return self._encode_image(pixel_values)[0]

    def get_text_features(self, caption_ids: torch.LongTensor) -> torch.FloatTensor:
        """
        Projected features of all tokens, padding included and unmasked, `(batch_size, caption_context_length,
        hidden_size)`, of captions `(batch_size, caption_context_length)`.
        """
        hidden_states = self.text_tower.text_model(input_ids=caption_ids).last_hidden_state
        return self.text_tower.text_projection(hidden_states)

    def forward(
        self,
        pixel_values: torch.FloatTensor,
        labels: torch.LongTensor | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        permutations: torch.LongTensor | None = None,
    ) -> Clip4STROutput | tuple:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, channels, height, width)`):
                Images as prepared by the processor, of the configuration's `image_size`.
            labels (`torch.LongTensor` of shape `(batch_size, length)`, *optional*):
                Begin token, characters, end token, then padding: the pad token or -100.
            output_attentions (`bool`, *optional*):
                Whether to return attention weights; needs `attn_implementation="eager"`.
            return_dict (`bool`, *optional*):
                Whether to return a [`Clip4STROutput`] or a tuple.
            permutations (`torch.LongTensor` of shape `(orderings, longest label + 2)`, *optional*):
                The orderings of the loss, left to right first. By default drawn by `sample_permutations`, in
                evaluation mode always the same.

        Returns:
            [`Clip4STROutput`]: without labels, the logits of the reading (predict and refine, with the branches,
            refinements and length of the generation configuration; logits processors apply only in `generate`); with
            labels, the permuted-language-modelling loss of both branches.

        Raises:
            ValueError: if images or labels do not have the shapes above, labels are missing in training, or attention
                weights are requested of an implementation other than eager.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if labels is None:
            if self.training and torch.is_grad_enabled():
                raise ValueError(
                    "There are no labels to train on. `Trainer` takes them away for label_smoothing_factor and "
                    "compute_loss_func, but the loss is the model's; to read, call model.eval() first."
                )
            output = self._read_logits(pixel_values, output_attentions)
        else:
            labels = self._checked_labels(labels, pixel_values)
            output = self._train_logits(pixel_values, labels, permutations, output_attentions)
        return output if return_dict else output.to_tuple()

    def _read_logits(self, pixel_values, output_attentions):
        self._complete_generation_config()
        self._check_options(self.generation_config, {})
        options = {"output_attentions": output_attentions, "stop_early": not self._shares_parameters()}
        reading = self.read(pixel_values, self.generation_config, **options)
        return Clip4STROutput(
            logits=reading.logits,
            visual_logits=reading.visual_logits,
            image_features=reading.image_features,
            encoder_attentions=reading.encoder_attentions,
            cross_attentions=reading.cross_attentions,
            visual_cross_attentions=reading.visual_cross_attentions,
        )

    def _train_logits(self, pixel_values, labels, permutations, output_attentions):
        """All orderings at once: rows are images times orderings, the orderings of an image side by side."""
        if permutations is None:
            # The loss of an evaluation is the same each time, and leaves the random state of training alone.
            generator = None if self.training else torch.Generator().manual_seed(0)
            permutations = sample_permutations(labels.shape[1] - 2, self.config.num_permutations, generator)
        permutations = permutations.to(labels.device)
        orderings = len(permutations)
        context, targets = self._context_and_targets(labels, orderings)
        masks = self._training_masks(permutations, context)

        features, encoder_attentions = self._encode_image(pixel_values, output_attentions)
        visual_memory = self.visual_decoder(None, features=features)
        visual_logits, visual_attentions = self.visual_decoder(context, visual_memory, *masks)

        loss = _cross_entropy(visual_logits, targets)

        logits, attentions = visual_logits, ()
        if self.config.cross_modal_loss_weight > 0:
            cross_features = features.detach() if self.config.detach_image_features else features
            # Orderings mostly agree on what they read: each distinct caption is encoded once.
            captions, index = self.captioner(visual_logits.detach().argmax(-1)).unique(dim=0, return_inverse=True)
            text_features = self.get_text_features(captions)[index]
            memory = self._cross_memory(self.cross_decoder(None, features=cross_features), text_features)
            logits, attentions = self.cross_decoder(context, memory, *masks)
            loss = loss + self.config.cross_modal_loss_weight * _cross_entropy(logits, targets)
        return Clip4STROutput(
            loss=loss,
            logits=logits[::orderings],
            visual_logits=visual_logits[::orderings],
            image_features=features,
            encoder_attentions=encoder_attentions,
            cross_attentions=(tuple(w[::orderings] for w in attentions) if output_attentions and attentions else None),
            visual_cross_attentions=(
                tuple(w.unflatten(2, (orderings, -1))[:, :, 0] for w in visual_attentions)
                if output_attentions
                else None
            ),
        )

    def _encode_image(self, pixel_values, output_attentions=False):
        implementations = [part._attn_implementation for part in (self.config, self.vision_tower.config)]
        if output_attentions and implementations != ["eager", "eager"]:
            raise ValueError(
                "output_attentions needs attn_implementation='eager', the decoders and the image tower of this model "
                f"run {implementations}: model.set_attn_implementation('eager')."
            )
        if not isinstance(pixel_values, torch.Tensor):
            raise ValueError(f"pixel_values must be a tensor, got {type(pixel_values).__name__}.")
        size = tuple(pixel_values.shape[-2:])
        if pixel_values.ndim != 4 or size != tuple(self.config.image_size):
            raise ValueError(
                f"pixel_values of shape {tuple(pixel_values.shape)} do not fit: this model reads images of "
                f"(batch_size, channels, {', '.join(map(str, self.config.image_size))})."
            )
        tower = self.vision_tower
        encoded = tower.vision_model(
            pixel_values=pixel_values,
            interpolate_pos_encoding=size != (self.config.vision_config.image_size,) * 2,
            output_attentions=output_attentions,
        )
        features = tower.visual_projection(tower.vision_model.post_layernorm(encoded.last_hidden_state))
        return features, encoded.attentions if output_attentions else None

    def _cross_memory(self, image_memory, text_features):
        """
        The memory of the cross-modal branch: keys and values of the images, projected once, and those of captions
        `(rows, caption_context_length, hidden_size)`, of which an image may have several side by side.
        """
        repeats = text_features.shape[0] // image_memory[0][0].shape[0]
        return [
            tuple(
                torch.cat([of_image.repeat_interleave(repeats, 0) if repeats > 1 else of_image, of_text], dim=2)
                for of_image, of_text in zip(of_images, of_texts)
            )
            for of_images, of_texts in zip(image_memory, self.cross_decoder(None, features=text_features))
        ]

    def _checked_labels(self, labels, pixel_values):
        """Labels, padded with the pad token and cut to the length of the longest."""
        if labels.ndim != 2 or len(labels) != len(pixel_values):
            raise ValueError(
                f"labels of shape {tuple(labels.shape)} must have one row for each of {len(pixel_values)} images."
            )
        begin, pad = self.config.bos_token_id, self.config.pad_token_id
        if begin != self.config.num_classes:
            raise ValueError(
                f"bos_token_id={begin} must be {self.config.num_classes}: `Trainer` has taken it from a processor of "
                "other characters. Use that of Clip4STRProcessor.from_config(model.config), or resize_charset."
            )
        labels = labels.long().masked_fill(labels == IGNORE_INDEX, pad)
        length = int((labels != pad).sum(-1).max())
        text = labels[:, 1:]
        known = torch.where(after_end(text, self.config.eos_token_id), text == pad, (text >= 0) & (text < begin))
        valid = known.all(-1) & (text == self.config.eos_token_id).any(-1) & (labels[:, 0] == begin)
        if not 2 <= length <= self.config.max_label_length + 2 or not bool(valid.all()):
            raise ValueError(
                f"labels of shape {tuple(labels.shape)} must hold the begin token {self.config.bos_token_id}, at most "
                f"{self.config.max_label_length} characters, the end token {self.config.eos_token_id}, then padding."
            )
        # `nn.DataParallel` splits a batch and joins the outputs of the parts, which must all have one length.
        is_part = getattr(self, "_is_replica", False)
        return labels[:, : self.config.max_label_length + 2 if is_part else length]

    def _context_and_targets(self, labels, orderings):
        """Context `(images * orderings, n + 1)` and targets of the same shape."""
        eos, pad = self.config.eos_token_id, self.config.pad_token_id
        targets = labels[:, 1:].masked_fill(labels[:, 1:] == pad, IGNORE_INDEX)[:, None].repeat(1, orderings, 1)
        targets[:, 2:] = targets[:, 2:].masked_fill(targets[:, 2:] == eos, IGNORE_INDEX)
        return labels[:, :-1].repeat_interleave(orderings, 0), targets.flatten(0, 1)

    def _training_masks(self, permutations, context):
        """
        Masks of queries and content `(images * orderings, 1, n + 1, n + 1)`: a query sees what comes before its
        character in the ordering, content also sees itself; nothing sees an end or padding.
        """
        rank = permutations.argsort(-1)
        query_mask = (rank[:, None, :] < rank[:, :, None])[:, 1:, :-1]
        content_mask = (rank[:, None, :] <= rank[:, :, None])[:, :-1, :-1]
        seen = (context != self.config.eos_token_id) & (context != self.config.pad_token_id)
        images = len(context) // len(permutations)
        return tuple((mask.repeat(images, 1, 1) & seen[:, None, :])[:, None] for mask in (query_mask, content_mask))

    def _upload_modified_files(self, working_dir, repo_id, *args, **kwargs):
        # `push_to_hub` calls this with the folder that it is about to upload, where the card is an empty template.
        complete_card(working_dir, self, repo_id, kwargs.get("token"))
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def _freeze_layers(self):
        text, vision = self.text_tower.text_model, self.vision_tower.vision_model
        for tower, depth, stem in (
            (text, self.config.num_frozen_text_layers, [text.embeddings]),
            (vision, self.config.num_frozen_image_layers, [vision.embeddings, vision.pre_layrnorm]),
        ):
            if depth >= 0:
                for module in [*stem, *tower.encoder.layers[:depth]]:
                    module.requires_grad_(False)
        if not self.config.cross_modal_loss_weight:
            for module in (self.text_tower, self.cross_decoder):
                module.requires_grad_(False)


def sample_permutations(length: int, count: int, generator: torch.Generator | None = None) -> torch.LongTensor:
    """
    Orderings of the positions 0 (begin) to `length + 1` (end) for the training loss: left to right, its mirror, then
    random ones each followed by its mirror, none twice (PARSeq, arXiv 2207.06966, 3.2). The begin comes first and the
    end last, but in the first mirror the end follows the begin, so that it is predicted from the begin alone.

    Args:
        length (`int`): characters of the longest label.
        count (`int`): number of orderings, limited to the factorial of `length`.
        generator (`torch.Generator`, *optional*): source of randomness, torch's own by default.

    Returns:
        `torch.LongTensor` of shape `(orderings, length + 2)`, on the CPU.
    """
    forward = torch.arange(length + 2)
    count = min(count, math.factorial(length))
    if count == 1:
        return forward[None]
    orderings = [forward, torch.cat([forward[:1], forward[1:].flip(0)])]
    drawn = {tuple(range(length)), tuple(reversed(range(length)))}
    while len(orderings) < count:
        inner = torch.randperm(length, generator=generator)
        if tuple(inner.tolist()) in drawn:
            continue
        drawn |= {tuple(inner.tolist()), tuple(inner.flip(0).tolist())}
        for order in (inner, inner.flip(0)):
            orderings.append(torch.cat([forward[:1], order + 1, forward[-1:]]))
    return torch.stack(orderings)


def _cross_entropy(logits, targets):
    # The mean over orderings, each weighted by its number of targets, is the mean over all targets.
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE_INDEX)


def _resized(tensor: torch.Tensor, rows: list[int | None]) -> torch.Tensor:
    """
    The requested rows of `tensor`. For each `None`, a row is drawn from the normal distribution with the mean and
    standard deviation of the old rows: next to trained rows, rows from `_init_weights` or of the mean alone are slow
    to learn.
    """
    spread, mean = torch.std_mean(tensor.float(), dim=0)
    drawn = torch.normal(mean.expand(len(rows), *mean.shape), spread.expand(len(rows), *mean.shape))
    index = torch.tensor([-1 if row is None else row for row in rows], device=tensor.device)
    is_new = (index < 0).view(-1, *[1] * mean.ndim)
    return torch.where(is_new, drawn.to(tensor.dtype), tensor[index])


def _like(parameter: nn.Parameter, values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=parameter.requires_grad)


__all__ = ["Clip4STRForSceneTextRecognition", "Clip4STROutput", "Clip4STRPreTrainedModel", "sample_permutations"]
