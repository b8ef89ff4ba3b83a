# SPDX-License-Identifier: Apache-2.0
"""Dual predict-and-refine decoding of Clip4STR (CLIP4STR, arXiv 2305.14014, 3.4)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.utils._pytree import tree_map
from transformers import DynamicCache, GenerationConfig, GenerationMixin, LogitsProcessorList
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module
from transformers.utils import ModelOutput


# The options that this decoding adds to a `GenerationConfig`, with their defaults.
GENERATION_DEFAULTS = {
    "autoregressive": True,
    "refine_iters": 1,
    "visual_only": False,
    "cross_modal_single_pass": False,
}

# Options of other decoding methods, and the values that leave them off.
UNSUPPORTED_OPTIONS = {
    "num_beams": (None, 1),
    "num_beam_groups": (None, 1),
    "do_sample": (None, False),
    "num_return_sequences": (None, 1),
    "penalty_alpha": (None,),
    "constraints": (None,),
    "force_words_ids": (None,),
    "guidance_scale": (None, 1),
    "prompt_lookup_num_tokens": (None,),
    "stop_strings": (None,),
    "max_time": (None,),
    "watermarking_config": (None,),
    "cache_implementation": (None,),
    "output_hidden_states": (None, False),
    "output_logits": (None, False),
    "token_healing": (None, False),
    "dola_layers": (None,),
}


@dataclass
class Clip4STRGenerateOutput(ModelOutput):
    """
    Output of [`Clip4STRForSceneTextRecognition.generate`] with `return_dict_in_generate=True`.

    Args:
        sequences (`torch.LongTensor` of shape `(batch_size, positions + 1)`):
            Begin token, characters, end token, padding. A text that fills all positions has no end token.
        confidence (`torch.FloatTensor` of shape `(batch_size,)`):
            Product of the probabilities of the characters and of the end token.
        logits (`torch.FloatTensor` of shape `(batch_size, positions, num_classes)`):
            Scores of the answer before softmax, logits processors applied, divided by the configuration's
            `confidence_temperature`: of the cross-modal branch, or of the visual branch with `visual_only`.
        visual_logits (`torch.FloatTensor` of shape `(batch_size, visual positions, num_classes)`):
            The same for the visual branch, not divided.
        visual_sequences (`torch.LongTensor` of shape `(batch_size, visual positions + 1)`):
            `sequences` of the visual branch.
        scores (`tuple[torch.FloatTensor]`, *optional*, returned with `output_scores=True`):
            `logits` position by position, each `(batch_size, num_classes)`.
        visual_scores (`tuple[torch.FloatTensor]`, *optional*, returned with `output_scores=True`):
            `visual_logits` position by position.
        image_features (`torch.FloatTensor` of shape `(batch_size, patches + 1, hidden_size)`):
            Projected features of the image tower.
        encoder_attentions, cross_attentions, visual_cross_attentions (*optional*, with `output_attentions=True`):
            Attention weights as in [`Clip4STROutput`], of the last pass of each branch.
    """

    sequences: torch.LongTensor | None = None
    confidence: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    visual_logits: torch.FloatTensor | None = None
    visual_sequences: torch.LongTensor | None = None
    scores: tuple[torch.FloatTensor, ...] | None = None
    visual_scores: tuple[torch.FloatTensor, ...] | None = None
    image_features: torch.FloatTensor | None = None
    encoder_attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    visual_cross_attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class Prediction:
    """Characters `(batch_size, positions)`, their logits, and the weights over the memory, one tensor per layer."""

    tokens: torch.LongTensor
    logits: torch.FloatTensor | None
    attentions: tuple


def _is_by_length(options: dict) -> bool:
    """Whether options of generation limit the text by `max_length` alone."""
    return options.get("max_length") is not None and options.get("max_new_tokens") is None


def after_end(ids: torch.LongTensor, eos_token_id: int) -> torch.BoolTensor:
    """Which positions of ids `(batch_size, positions)` come after the first end token of their text."""
    is_end = ids == eos_token_id
    return is_end.cumsum(-1) - is_end.long() > 0


def character_probabilities(
    logits: torch.Tensor, eos_token_id: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    The text in logits `(batch_size, positions, num_classes)` and its probabilities, in float32.

    Returns:
        `(ids, probabilities, in_text)`, all `(batch_size, positions)`: the likeliest classes, their probabilities, and
        which positions count: those of the characters and of the first end token. The product of the probabilities
        that count is the confidence of the word.
    """
    probabilities, ids = logits.float().softmax(-1).max(-1)
    return ids, probabilities, ~after_end(ids, eos_token_id)


class Clip4STRGenerationMixin(GenerationMixin):
    """`generate` for a model with two branches that predict a text and refine it."""

    def _set_generation_defaults(self):
        config = self.config
        # A new one, as one made from a model's configuration loses names that transformers does not declare.
        self.generation_config = GenerationConfig(max_length=config.max_label_length + 2)
        self._complete_generation_config()

    def _complete_generation_config(self):
        """Adds what is missing: files and trainers may have set a plain `GenerationConfig`, without these options."""
        config = self.generation_config
        defaults = GENERATION_DEFAULTS | {"visual_only": not self.config.cross_modal_loss_weight} | self._token_ids()
        for name, value in defaults.items():
            if getattr(config, name, None) is None:
                setattr(config, name, value)
        if config.max_length is None and config.max_new_tokens is None:
            config.max_length = self.config.max_label_length + 2

    def _token_ids(self):
        ids = {name: getattr(self.config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        return ids | {"decoder_start_token_id": self.config.bos_token_id}

    def _shares_parameters(self) -> bool:
        """Whether all processes must call every module equally often, as each holds only some of the parameters."""
        if torch.compiler.is_compiling() or not (is_deepspeed_zero3_enabled() or is_fsdp_managed_module(self)):
            return False
        return torch.distributed.get_world_size() > 1

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.FloatTensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        prefix_allowed_tokens_fn: Callable[[int, torch.Tensor], list[int]] | None = None,
        synced_gpus: bool | None = None,
        **kwargs,
    ) -> Clip4STRGenerateOutput | torch.LongTensor:
        """
        Reads images: the visual branch predicts a text, the cross-modal branch reads image and prediction, and both
        refine what they read.

        Args:
            inputs (`torch.FloatTensor` of shape `(batch_size, channels, height, width)`):
                Images as prepared by the processor; may also be passed as `pixel_values`.
            generation_config (`GenerationConfig`, *optional*):
                Options that replace the model's own; any of them may also be passed by name:

                - `autoregressive` (`bool`, defaults to `True`): predict one character after another, or all at once.
                - `refine_iters` (`int`, defaults to 1): number of refinements, 0 or more.
                - `visual_only` (`bool`, defaults to `False`, and to `True` for a reader with `cross_modal_loss_weight`
                  0): answer with the visual branch, without the text tower.
                - `cross_modal_single_pass` (`bool`, defaults to `False`): predict the cross-modal text in one pass
                  from the characters of the visual branch.
                - `max_length` (`int`, defaults to `max_label_length + 2`): length of `sequences`, begin token
                  included; or `max_new_tokens`.
                - `output_scores`, `output_attentions`, `return_dict_in_generate` (`bool`): what to return.
                - `compile_config` (`CompileConfig`): compile the whole reading into one graph of fixed length, by
                  default a CUDA graph on CUDA. The first call of each batch size and set of options takes minutes.
            logits_processor (`LogitsProcessorList`, *optional*):
                Applied to both branches in every pass, from left to right, with the begin token and the preceding
                characters as `input_ids`; so are the processors of options such as `suppress_tokens`.
            prefix_allowed_tokens_fn (`Callable`, *optional*):
                Takes the index in the batch and the ids so far and returns the ids that may follow (a pattern, a
                lexicon). It is not called for texts that have ended.
            synced_gpus (`bool`, *optional*):
                Whether to run all steps, so that processes among which the parameters are split stay in step. Defaults
                to `True` if they are split (FSDP, DeepSpeed ZeRO-3).

        Returns:
            `sequences`, or a [`Clip4STRGenerateOutput`] with `return_dict_in_generate=True`.

        Raises:
            ValueError: if options belong to other decoding methods (beams, sampling, ...), are unknown or have wrong
                values, or if there is no image.
        """
        pixel_values = kwargs.pop("pixel_values", None) if inputs is None else inputs
        if pixel_values is not None and not isinstance(pixel_values, torch.Tensor):
            raise ValueError(f"pixel_values must be a tensor, got {type(pixel_values).__name__}.")
        if pixel_values is None or len(pixel_values) == 0:
            found = "None" if pixel_values is None else f"of shape {tuple(pixel_values.shape)}"
            raise ValueError(f"pixel_values {found} hold no image.")
        synced_gpus = self._shares_parameters() if synced_gpus is None else synced_gpus
        kwargs.pop("labels", None)  # Seq2SeqTrainer passes the whole batch
        self._complete_generation_config()
        if prefix_allowed_tokens_fn is not None:
            prefix_allowed_tokens_fn = _until_the_end(prefix_allowed_tokens_fn, self.config)
        by_length = _is_by_length(kwargs) or (generation_config is not None and _is_by_length(vars(generation_config)))
        config, unknown = self._prepare_generation_config(generation_config, **kwargs)
        if by_length and kwargs.get("max_new_tokens") is None:
            config.max_new_tokens = None  # only the model's own configuration sets it
        self._check_options(config, unknown)
        self._prepare_special_tokens(config, device=pixel_values.device)
        config.max_length = self._positions(config) + 1  # some processors ask for it
        processors = self._get_logits_processor(
            config,
            input_ids_seq_length=1,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            logits_processor=logits_processor,
            device=pixel_values.device,
        )
        read = self.read if config.compile_config is None else self._compiled_read
        output = read(pixel_values, config, processors, bool(config.output_attentions), stop_early=not synced_gpus)
        if not config.return_dict_in_generate:
            return output.sequences
        if config.output_scores:
            output.scores, output.visual_scores = output.logits.unbind(1), output.visual_logits.unbind(1)
        return output

    def compute_transition_scores(self, *args, **kwargs):
        """
        Not supported: the outputs of `generate` already hold the confidences.

        Raises:
            NotImplementedError: always; the message says where confidences are.
        """
        raise NotImplementedError(
            "What each character is worth is in `Clip4STRProcessor.post_process_text_recognition`, and a word in "
            "`confidence` of the output."
        )

    def read(
        self,
        pixel_values: torch.FloatTensor,
        generation_config: GenerationConfig,
        logits_processor: LogitsProcessorList | None = None,
        output_attentions: bool = False,
        stop_early: bool = True,
    ) -> Clip4STRGenerateOutput:
        """The decoding itself, given a complete `generation_config`; see `generate`."""
        positions = self._positions(generation_config)
        select = _Selector(logits_processor, self.config)
        refine_iters = generation_config.refine_iters
        # A compiled graph and processes among which the parameters are split do the same work whatever is read.
        adapts = stop_early and not torch.compiler.is_compiling()
        # A single cross-modal pass also reads what follows the end of a visual text: if that were cut, a text would
        # depend on the longest text of the batch.
        stop_early = adapts and not generation_config.cross_modal_single_pass
        # If a refinement follows, only the texts of the first prediction count, and all other work is left out.
        texts_only = stop_early and refine_iters > 0 and not output_attentions and not select.processors
        steps = {"positions": positions, "select": select, "stop_early": stop_early, "texts_only": texts_only}

        features, encoder_attentions = self._encode_image(pixel_values, output_attentions)

        visual_memory = self.visual_decoder(None, features=features)
        readings = [self._predict(self.visual_decoder, visual_memory, generation_config.autoregressive, **steps)]
        for _ in range(refine_iters):
            readings.append(self._refine(self.visual_decoder, visual_memory, readings[-1].tokens, positions, select))
        answer = visual = readings[-1]
        if not generation_config.visual_only:
            answer = self._read_cross_modal(features, readings, generation_config, steps, all_captions=not adapts)

        logits = answer.logits
        if self.config.confidence_temperature != 1:
            # In half precision close values would become equal, and another class could become the likeliest.
            logits = logits.float() / self.config.confidence_temperature
        _, probabilities, in_text = character_probabilities(logits, self.config.eos_token_id)
        return Clip4STRGenerateOutput(
            sequences=self._sequences(answer.tokens),
            confidence=probabilities.masked_fill(~in_text, 1.0).prod(-1),
            logits=logits,
            visual_logits=visual.logits,
            visual_sequences=self._sequences(visual.tokens),
            image_features=features,
            encoder_attentions=encoder_attentions,
            cross_attentions=answer.attentions if output_attentions and answer is not visual else None,
            visual_cross_attentions=visual.attentions if output_attentions else None,
        )

    def _read_cross_modal(self, features, readings, generation_config, steps, all_captions) -> Prediction:
        """The answer of the cross-modal branch, given the visual branch's first reading and its refinements."""
        decoder, draft = self.cross_decoder, readings[0].tokens
        # Back to the decoders' device, in case a device map has put the captioner on another.
        captions = [self.captioner(reading.tokens).to(draft.device) for reading in readings]
        (_, text_features), *renewed = self._encode_captions(captions, all_captions)
        memory = self._cross_memory(decoder(None, features=features), text_features)
        if generation_config.cross_modal_single_pass:
            answer = self._predict_in_one_pass(decoder, memory, draft, steps["select"])
        elif steps["texts_only"] and generation_config.autoregressive:
            answer = self._predict_with_draft(decoder, memory, draft, steps)
        else:
            # At least as many steps as the visual branch, as in the original, then on until its own rows have ended,
            # so that a text does not depend on the batch.
            answer = self._predict(decoder, memory, generation_config.autoregressive, **steps, least=draft.shape[1])
        for rows, text_features in renewed:
            self._renew_captions(memory, rows, text_features)
            answer = self._refine(decoder, memory, answer.tokens, steps["positions"], steps["select"])
        return answer

    def _compiled_read(self, pixel_values, config, *args, **kwargs):
        # torch finds what it has compiled before by the code of `read`. Nothing is stored on the model, as a copy of
        # it would run the original's.
        compiled = torch.compile(self.read, **config.compile_config.to_dict())
        torch.compiler.cudagraph_mark_step_begin()
        # The next run of a CUDA graph overwrites these outputs.
        return tree_map(torch.clone, compiled(pixel_values, config, *args, **kwargs))

    def _predict(
        self, decoder, memory, autoregressive, positions, select, stop_early, texts_only, least=1
    ) -> Prediction:
        """
        Predicts from the begin token alone: one character after another until every row has ended, or all at once.
        With `texts_only`, ended rows leave the batch: there are no logits, and what follows an end is meaningless.
        """
        begin = self._begin(memory)
        if not autoregressive:
            logits, attentions = decoder(begin, memory, num_queries=positions)
            return Prediction(*select(logits), attentions)
        ids = nn.functional.pad(begin, (0, positions), value=self.config.eos_token_id)
        rows, ended = torch.arange(ids.shape[0], device=ids.device), torch.zeros_like(begin[:, 0], dtype=torch.bool)
        cache, watch, logits, attentions = DynamicCache(), _EndWatch(), [], []
        for step in range(positions):
            step_logits, step_attentions = decoder(ids[rows, step, None], memory, cache=cache)
            scores = select.scores(ids[:, : step + 1], step_logits[:, -1])
            token = scores.argmax(-1)
            ids[rows, step + 1] = token
            if not texts_only:
                logits.append(scores)
                attentions.append(step_attentions)
            if not stop_early:
                continue
            ended = ended | (token == self.config.eos_token_id)
            going_on = watch.going_on(ended)
            if len(going_on) == 0 and step + 1 >= least:
                break
            # Ended rows leave once they are half of all: before that, copying the rest costs more than it saves.
            if texts_only and 2 * len(going_on) <= len(rows):
                rows, ended, memory = rows[going_on], ended[going_on], _rows_of(memory, going_on)
                cache.batch_select_indices(going_on)
                watch = _EndWatch()
        length = positions if not stop_early else max(least, int(_text_lengths(ids[:, 1:], self.config).max()))
        tokens = ids[:, 1 : length + 1]
        if texts_only:
            return Prediction(tokens, None, ())
        by_layer = zip(*attentions[:length])
        attentions = tuple(None if layer[0] is None else torch.cat(layer, dim=2) for layer in by_layer)
        return Prediction(tokens, torch.stack(logits[:length], dim=1), attentions)

    def _predict_with_draft(self, decoder, memory, draft, steps) -> Prediction:
        """
        The texts of `_predict`, most of them in one pass: if every character of a draft is confirmed, each from those
        before it, predicting one after another would give the same text. The branches mostly agree.
        """
        own = self._predict_in_one_pass(decoder, memory, draft, steps["select"]).tokens
        in_text = torch.arange(draft.shape[1], device=draft.device) < _text_lengths(draft, self.config)[:, None]
        differing = ((own != draft) & in_text).any(-1).nonzero()[:, 0]
        if len(differing) == 0:
            return Prediction(draft, None, ())
        tokens = self._predict(decoder, _rows_of(memory, differing), autoregressive=True, **steps).tokens
        longest = max(draft.shape[1], tokens.shape[1])
        draft, tokens = (
            nn.functional.pad(ids, (0, longest - ids.shape[1]), value=self.config.eos_token_id)
            for ids in (draft, tokens)
        )
        return Prediction(draft.index_copy(0, differing, tokens), None, ())

    def _predict_in_one_pass(self, decoder, memory, tokens, select) -> Prediction:
        """Each position sees the characters before it, as another branch has read them."""
        context = torch.cat([self._begin(memory), tokens[:, :-1]], dim=1)
        length = context.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=context.device).tril()[None, None]
        logits, attentions = decoder(context, memory, causal, causal)
        return Prediction(*select(logits), attentions)

    def _refine(self, decoder, memory, tokens, positions, select) -> Prediction:
        """Each position sees every other character of the text, up to its end (the cloze mask of the paper)."""
        context = torch.cat([self._begin(memory), tokens[:, : positions - 1]], dim=1)
        context = nn.functional.pad(context, (0, positions - context.shape[1]), value=self.config.eos_token_id)
        places = torch.arange(positions, device=context.device)
        in_text = (context == self.config.eos_token_id).cumsum(-1) == 0
        mask = ((places[None, :] != places[:, None] + 1) & in_text[:, None, :])[:, None]
        logits, attentions = decoder(context, memory, mask, mask)
        return Prediction(*select(logits), attentions)

    def _encode_captions(self, captions, all_captions):
        """
        Rows of the batch and the text features of their captions: all rows for the prediction, then, for each
        refinement, those whose captions it has changed (all with `all_captions`). All go through the text tower at
        once: the visual branch does not need the other one, and with few images most of the tower's time is spent on
        loading its weights.
        """
        everything = torch.arange(captions[0].shape[0], device=captions[0].device)
        rows = [everything]
        for old, new in pairwise(captions):
            rows.append(everything if all_captions else (new != old).any(-1).nonzero()[:, 0])
        features = self.get_text_features(torch.cat([ids[kept] for ids, kept in zip(captions, rows)]))
        return list(zip(rows, features.split([kept.shape[0] for kept in rows])))

    def _renew_captions(self, memory, rows, text_features):
        """Replaces the caption features of these rows in the memory, in place."""
        if rows.shape[0]:
            length = text_features.shape[1]
            for kept, new in zip(memory, self.cross_decoder(None, features=text_features)):
                for part, new_part in zip(kept, new):
                    part[:, :, -length:][rows] = new_part

    def _begin(self, memory):
        keys = memory[0][0]
        return torch.full((keys.shape[0], 1), self.config.bos_token_id, dtype=torch.long, device=keys.device)

    def _sequences(self, tokens):
        return nn.functional.pad(_pad_after_end(tokens, self.config), (1, 0), value=self.config.bos_token_id)

    def _positions(self, config):
        """Characters to predict, the end token included."""
        longest, name, begin = self.config.max_label_length + 2, "max_new_tokens", 0
        if config.max_new_tokens is None:
            name, begin = "max_length", 1
        tokens = getattr(config, name)
        tokens = longest if tokens is None else tokens
        if type(tokens) is not int or not 1 <= tokens - begin < longest:
            raise ValueError(
                f"{name}={tokens!r} does not fit: this model reads sequences of 2 to {longest} tokens, begin (which "
                "max_new_tokens does not count) and end included."
            )
        return tokens - begin

    def _check_options(self, config, unknown):
        # The configuration knows these two, but transformers also returns them, as arguments of `forward`.
        known = ("output_attentions", "output_hidden_states")
        unknown = sorted(name for name, value in unknown.items() if value is not None and name not in known)
        if unknown:
            raise ValueError(f"generate does not know {unknown}.")
        for name, off in UNSUPPORTED_OPTIONS.items():
            if getattr(config, name, None) not in off:
                raise ValueError(f"{name}={getattr(config, name)!r} does not apply to predict-and-refine decoding.")
        for name, value in self._token_ids().items():
            if getattr(config, name) != value:
                raise ValueError(f"{name}={getattr(config, name)!r} must be {value}: ids follow from the charset.")
        for name in ("autoregressive", "visual_only", "cross_modal_single_pass"):
            if not isinstance(getattr(config, name), bool):
                raise ValueError(f"{name}={getattr(config, name)!r} must be True or False.")
        if type(config.refine_iters) is not int or config.refine_iters < 0:
            raise ValueError(f"refine_iters={config.refine_iters!r} must be a whole number of at least 0.")


def _until_the_end(allowed, config):
    """
    `allowed`, of the tokens that can be predicted, which begin and padding are not. It is not called for texts that
    have ended: after an end token only the end token may follow.
    """

    def allowed_now(index, ids):
        if (ids == config.eos_token_id).any():
            return [config.eos_token_id]
        return [token for token in map(int, allowed(index, ids)) if token < config.bos_token_id]

    return allowed_now


def _rows_of(memory, rows):
    return [tuple(part[rows] for part in layer) for layer in memory]


def _text_lengths(ids, config):
    """Number of positions up to and including the first end token, `(rows,)`; all positions if there is none."""
    return (~after_end(ids, config.eos_token_id)).sum(-1)


class _EndWatch:
    """
    Tells which rows go on. On a CUDA device the answer is `LAG` steps old, so that the host need not wait for the step
    that it has just started; that is safe, as rows that have ended stay ended.
    """

    LAG = 2

    def __init__(self):
        self.on_the_way = deque()

    def going_on(self, ended: torch.BoolTensor) -> torch.LongTensor:
        """Indices of the rows that have not ended, on the device of `ended`."""
        if not ended.is_cuda:
            return (~ended).nonzero()[:, 0]
        copy = ended.to("cpu", non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(ended.device))
        self.on_the_way.append((event, copy))
        if len(self.on_the_way) <= self.LAG:
            return torch.arange(len(ended), device=ended.device)
        event, known = self.on_the_way.popleft()
        event.synchronize()
        return (~known).nonzero()[:, 0].to(ended.device, non_blocking=True)


def _pad_after_end(ids, config):
    return ids.masked_fill(after_end(ids, config.eos_token_id), config.pad_token_id)


class _Selector:
    """Selects the likeliest characters after the logits processors, which see what was selected before."""

    def __init__(self, processors, config):
        self.processors = processors
        self.config = config

    def scores(self, ids, logits):
        """Scores `(rows, num_classes)` of the character after `ids`, `(rows, length)`."""
        if not self.processors:
            return logits
        return self.processors(_pad_after_end(ids, self.config), logits)

    def __call__(self, logits):
        """Characters and scores of all positions of `logits`, `(rows, positions, num_classes)`."""
        if not self.processors:
            return logits.argmax(-1), logits
        ids = torch.full_like(logits[:, :1, 0], self.config.bos_token_id, dtype=torch.long)
        scores = []
        for position in logits.unbind(1):
            scores.append(self.scores(ids, position))
            ids = torch.cat([ids, scores[-1].argmax(-1, keepdim=True)], dim=1)
        return ids[:, 1:], torch.stack(scores, dim=1)


__all__ = ["Clip4STRGenerateOutput", "Clip4STRGenerationMixin", "character_probabilities"]
