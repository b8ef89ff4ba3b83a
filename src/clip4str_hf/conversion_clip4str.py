# SPDX-License-Identifier: Apache-2.0
"""Converts checkpoints of the original implementation (VamosC/CLIP4STR) to this one."""

import os
import re
import warnings
from collections.abc import Mapping

import torch

from .configuration_clip4str import DEFAULT_CHARSET, Clip4STRConfig
from .modeling_clip4str import Clip4STRForSceneTextRecognition


_TOWERS = [
    (r"^clip_model\.visual\.transformer\.resblocks\.", "vision_tower.vision_model.encoder.layers."),
    (r"^clip_model\.visual\.class_embedding$", "vision_tower.vision_model.embeddings.class_embedding"),
    (r"^clip_model\.visual\.positional_embedding$", "vision_tower.vision_model.embeddings.position_embedding.weight"),
    (r"^clip_model\.visual\.conv1\.", "vision_tower.vision_model.embeddings.patch_embedding."),
    (r"^clip_model\.visual\.ln_pre\.", "vision_tower.vision_model.pre_layrnorm."),
    (r"^clip_model\.visual\.ln_post\.", "vision_tower.vision_model.post_layernorm."),
    (r"^clip_model\.visual\.proj$", "vision_tower.visual_projection.weight"),
    (r"^clip_model\.transformer\.resblocks\.", "text_tower.text_model.encoder.layers."),
    (r"^clip_model\.token_embedding\.", "text_tower.text_model.embeddings.token_embedding."),
    (r"^clip_model\.positional_embedding$", "text_tower.text_model.embeddings.position_embedding.weight"),
    (r"^clip_model\.ln_final\.", "text_tower.text_model.final_layer_norm."),
    (r"^clip_model\.text_projection$", "text_tower.text_projection.weight"),
    (r"(encoder\.layers\.\d+\.)attn\.", r"\1self_attn."),
    (r"(encoder\.layers\.\d+\.)ln_([12])\.", r"\1layer_norm\2."),
    (r"(encoder\.layers\.\d+\.mlp\.)c_fc\.", r"\1fc1."),
    (r"(encoder\.layers\.\d+\.mlp\.)c_proj\.", r"\1fc2."),
]
_DECODERS = [
    (r"_decoder\.text_embed\.embedding\.", "_decoder.character_embedding."),
    (r"_decoder\.pos_queries$", "_decoder.position_queries"),
    (r"(_decoder\.layers\.\d+\.)linear([12])\.", r"\1mlp.fc\2."),
    (r"(_decoder\.layers\.\d+\.)norm1\.", r"\1norm_cross."),
    (r"(_decoder\.layers\.\d+\.)norm2\.", r"\1norm_mlp."),
    (r"(_decoder\.layers\.\d+\.)norm_q\.", r"\1norm_query."),
    (r"(_decoder\.layers\.\d+\.)norm_c\.", r"\1norm_content."),
]
# CLIP stores its projections as matrices that multiply features from the right.
_TRANSPOSED = ("clip_model.visual.proj", "clip_model.text_projection")
# From contrastive pre-training; no reader uses it.
_UNUSED = ("clip_model.logit_scale",)
_HEAD_WIDTH = 64


def load_original_checkpoint(path: str | os.PathLike, allow_pickle: bool = False) -> tuple[dict, dict]:
    """
    Loads the tensors and hyper-parameters of an original checkpoint file: a Lightning checkpoint, or bare weights.

    Args:
        path (`str` or `os.PathLike`): the file.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            Whether the file may run code of its own. Only for files whose author you trust; a warning is issued.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if the file is not a checkpoint, or holds more than tensors and plain values.
    """
    if allow_pickle:
        warnings.warn(f"{path} is unpickled without limits: it can run any code on this machine.", stacklevel=2)
    with open(path, "rb") as file:
        try:
            checkpoint = torch.load(file, map_location="cpu", weights_only=not allow_pickle)
        except Exception as error:  # torch and pickle may raise anything on a file that is not theirs
            advice = "" if allow_pickle else " If you trust its maker, allow pickle explicitly."
            raise ValueError(
                f"{path} is damaged or holds more than tensors and plain values "
                f"({str(error) or type(error).__name__}).{advice}"
            ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} holds a {type(checkpoint).__name__}, not a dictionary of tensors.")
    state = checkpoint.get("state_dict", checkpoint)
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__} as state_dict, not a dictionary of tensors.")
    wrong = [name for name, value in state.items() if not (isinstance(name, str) and isinstance(value, torch.Tensor))]
    if wrong:
        raise ValueError(f"{path} holds no weights: {wrong[:5]} are not names of tensors.")
    hyper_parameters = checkpoint.get("hyper_parameters", {}) if "state_dict" in checkpoint else {}
    if not isinstance(hyper_parameters, Mapping):
        raise ValueError(f"{path} holds a {type(hyper_parameters).__name__} as hyper_parameters, not a dictionary.")
    return state, dict(hyper_parameters)


def convert_original_checkpoint(state: dict, hyper_parameters: dict | None = None) -> Clip4STRForSceneTextRecognition:
    """
    Builds a reader with the weights of the original. Sizes are read from the tensors; what no tensor tells (the
    characters, heads of the decoders, dropout, frozen layers, generation defaults, ...) comes from the
    hyper-parameters, or is the default of the released models.

    Args:
        state (`dict[str, torch.Tensor]`): the original's tensors, by the original's names.
        hyper_parameters (`dict`, *optional*): the original's hyper-parameters.

    Raises:
        ValueError: if tensors are missing, unknown or misshapen; the message names them.
    """
    hyper_parameters = hyper_parameters or {}
    config = _read_config(state, hyper_parameters)
    with torch.device("meta"):
        expected = Clip4STRForSceneTextRecognition(config).state_dict()
    converted, sources = {}, {}
    for name, tensor in state.items():
        if name not in _UNUSED:
            for new_name, part in _rename(name, tensor):
                converted[new_name], sources[new_name] = part, name
    expected = {name: tensor.shape for name, tensor in expected.items() if not name.startswith("captioner.")}
    _check_tensors(expected, converted, sources)
    model = Clip4STRForSceneTextRecognition(config)
    model.load_state_dict(converted, strict=False)
    model.generation_config.update(
        autoregressive=bool(hyper_parameters.get("decode_ar", True)),
        refine_iters=int(hyper_parameters.get("refine_iters", 1)),
    )
    return model.eval()


def _shape(state, name, dimensions=2):
    if name not in state:
        raise ValueError(f"This is no CLIP4STR checkpoint: it has no tensor {name!r}.")
    shape = state[name].shape
    if len(shape) != dimensions:
        raise ValueError(f"misshapen: {name} {tuple(shape)} has {len(shape)} dimensions instead of {dimensions}.")
    return shape


def _depth(state, prefix):
    """Number of layers, whose tensors' names start with `prefix` and the index of the layer."""
    layers = (re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in state)
    return max((int(layer[1]) for layer in layers if layer), default=-1) + 1


def _read_tower(state, prefix, width):
    return {
        "hidden_size": width,
        "intermediate_size": _shape(state, f"{prefix}transformer.resblocks.0.mlp.c_fc.weight")[0],
        "num_hidden_layers": _depth(state, f"{prefix}transformer.resblocks."),
        "num_attention_heads": max(width // _HEAD_WIDTH, 1),
        "projection_dim": _shape(state, "clip_model.visual.proj")[1],
        "hidden_act": "quick_gelu",
    }


def _read_vision(state):
    width, _, _, patch = _shape(state, "clip_model.visual.conv1.weight", dimensions=4)
    patches = _shape(state, "clip_model.visual.positional_embedding")[0] - 1
    grid = round(patches**0.5)
    if grid**2 != patches:
        raise ValueError(f"clip_model.visual.positional_embedding has {patches} patches, which are no square.")
    return _read_tower(state, "clip_model.visual.", width) | {"image_size": grid * patch, "patch_size": patch}


def _read_text(state):
    vocab_size, width = _shape(state, "clip_model.token_embedding.weight")
    return _read_tower(state, "clip_model.", width) | {
        "vocab_size": vocab_size,
        "max_position_embeddings": _shape(state, "clip_model.positional_embedding")[0],
        "bos_token_id": vocab_size - 2,
        "eos_token_id": vocab_size - 1,
    }


def _read_config(state, hyper):
    vision, text = _read_vision(state), _read_text(state)
    charset = hyper.get("charset_train", DEFAULT_CHARSET)
    classes = _shape(state, "visual_decoder.head.weight")[0]
    if classes != len(charset) + 1:
        raise ValueError(
            f"visual_decoder.head.weight has {classes} classes, the charset has {len(charset)} characters."
        )
    return Clip4STRConfig(
        text_config=text,
        vision_config=vision,
        charset=charset,
        max_label_length=_shape(state, "visual_decoder.pos_queries", dimensions=3)[1] - 1,
        caption_context_length=hyper.get("context_length", 16),
        decoder_layers=_depth(state, "visual_decoder.layers."),
        decoder_attention_heads=hyper.get("dec_num_heads", 8),
        decoder_mlp_ratio=_shape(state, "visual_decoder.layers.0.linear1.weight")[0] // vision["projection_dim"],
        decoder_dropout=hyper.get("dropout", 0.1),
        num_frozen_text_layers=hyper.get("text_freeze_nlayer", min(6, text["num_hidden_layers"])),
        num_frozen_image_layers=hyper.get("image_freeze_nlayer", -1),
        detach_image_features=hyper.get("image_detach", True),
        num_permutations=hyper.get("perm_num", 6),
    )


def _rename(name, tensor):
    """The new names of a tensor of the original, each with its part of the tensor."""
    new_name = name
    for pattern, replacement in _TOWERS + _DECODERS:
        new_name = re.sub(pattern, replacement, new_name)
    if name in _TRANSPOSED:
        tensor = tensor.T
    # A tensor without three parts stays whole and is reported as unknown.
    if ".in_proj_" not in new_name or tensor.ndim == 0 or tensor.shape[0] % 3:
        return [(new_name, tensor.contiguous())]
    parts = zip("qkv", tensor.chunk(3))
    return [(new_name.replace("in_proj_", f"{letter}_proj."), part.contiguous()) for letter, part in parts]


def _check_tensors(expected, converted, sources):
    problems = [f"missing: {name}" for name in expected if name not in converted]
    problems += [f"unknown: {sources[name]}" for name in converted if name not in expected]
    problems += [
        f"misshapen: {sources[name]} gives {name} {tuple(converted[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in converted and converted[name].shape != shape
    ]
    if problems:
        raise ValueError("The checkpoint does not fit the model it describes:\n" + "\n".join(problems))


__all__ = ["convert_original_checkpoint", "load_original_checkpoint"]
