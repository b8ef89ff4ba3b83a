# SPDX-License-Identifier: Apache-2.0
"""Models and reference outputs that several test files share."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPVisionConfig

from clip4str_hf import Clip4STRConfig, Clip4STRForSceneTextRecognition
from clip4str_hf.conversion_clip4str import convert_original_checkpoint, load_original_checkpoint


# Tests run side by side, and so small models are no faster on several threads; scripts that are started inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
# Servers of the tests are on this machine, wherever a proxy leads.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"

# All of the reference's outputs, of which `tests/data` holds a part: CLIP4STR_PARITY=FOLDER.
PARITY = Path(os.environ.get("CLIP4STR_PARITY", "reference-outputs"))
DATA = Path(__file__).with_name("data")


@dataclass
class Parity:
    """A checkpoint of the reference implementation and what it gave for `pixel_values`."""

    state: dict[str, torch.Tensor]
    model: Clip4STRForSceneTextRecognition
    outputs: dict[str, torch.Tensor]
    expected: dict
    with_logits: list[int]  # the images whose logits are in `outputs`
    num_clean: int  # the images before those of noise and blur

    @property
    def pixel_values(self):
        return self.outputs["pixel_values"]


def tiny_config(**fields) -> Clip4STRConfig:
    """A reader of random weights that runs in milliseconds; its captions are spelt in bytes."""
    shared = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    shared |= {"projection_dim": 32}
    defaults = {
        "text_config": CLIPTextConfig(vocab_size=514, bos_token_id=512, eos_token_id=513, **shared),
        "vision_config": CLIPVisionConfig(image_size=32, patch_size=8, **shared),
        "max_label_length": 8,
        "decoder_attention_heads": 2,
        "num_frozen_text_layers": 1,
    }
    return Clip4STRConfig(**defaults | fields)


def tiny_model(seed: int = 0, **fields) -> Clip4STRForSceneTextRecognition:
    torch.manual_seed(seed)
    model = Clip4STRForSceneTextRecognition(tiny_config(**fields)).eval()
    # Larger than the initialisation, so that predictions depend on what they should depend on.
    for decoder in (model.visual_decoder, model.cross_decoder):
        for parameter in decoder.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def spell(model, labels: list[str]) -> torch.Tensor:
    """Labels of texts, padded with -100."""
    config, longest = model.config, max(map(len, labels))
    rows = [[config.charset.index(character) + 1 for character in text] for text in labels]
    return torch.tensor(
        [[config.bos_token_id, *row, config.eos_token_id] + [-100] * (longest - len(row)) for row in rows]
    )


def read_texts(model, sequences: torch.Tensor) -> list[str]:
    """The texts of `sequences`, by the definition of the ids."""
    last = len(model.config.charset)
    return ["".join(model.config.charset[i - 1] for i in row if 0 < i <= last) for row in sequences.tolist()]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """The folder of reference outputs beside the checkout."""
    if not (PARITY / "tiny.ckpt").exists():
        pytest.skip("CLIP4STR_PARITY names no folder of reference outputs")
    return PARITY


@pytest.fixture(scope="session")
def parity_small() -> Parity:
    """The part of the reference outputs that is in the repository."""
    tensors = load_file(DATA / "parity_small.safetensors")
    expected = json.loads((DATA / "parity_small.json").read_text())
    state = {name.removeprefix("state/"): tensor for name, tensor in tensors.items() if name.startswith("state/")}
    embedding = torch.zeros(expected["vocab_size"], tensors["token_embedding"].shape[1])
    embedding[tensors["token_rows"]] = tensors["token_embedding"]
    state["clip_model.token_embedding.weight"] = embedding
    outputs = {name.removeprefix("outputs/"): value for name, value in tensors.items() if name.startswith("outputs/")}
    model = convert_original_checkpoint(state, expected["hyper_parameters"])
    return Parity(state, model, outputs, expected, expected["with_logits"], num_clean=8)


@pytest.fixture(scope="session")
def parity_full(parity_dir) -> Parity:
    """All reference outputs."""
    state, hyper_parameters = load_original_checkpoint(parity_dir / "tiny.ckpt")
    outputs = load_file(parity_dir / "tiny.safetensors")
    expected = json.loads((parity_dir / "tiny.json").read_text())
    model = convert_original_checkpoint(state, hyper_parameters)
    return Parity(state, model, outputs, expected, list(range(len(outputs["pixel_values"]))), num_clean=12)


@pytest.fixture(params=["small", "full"])
def parity(request) -> Parity:
    return request.getfixturevalue(f"parity_{request.param}")
