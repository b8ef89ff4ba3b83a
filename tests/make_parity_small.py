# SPDX-License-Identifier: Apache-2.0
"""Cuts the folder `parity` down to `tests/data`: `python tests/make_parity_small.py FOLDER`."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from clip4str_hf.captioning_clip4str import Clip4STRCaptioner
from clip4str_hf.configuration_clip4str import Clip4STRConfig
from clip4str_hf.conversion_clip4str import load_original_checkpoint


DATA = Path(__file__).with_name("data")
TOKEN_EMBEDDING = "clip_model.token_embedding.weight"
# The first eight are those of `train.loss`; the noisy ones are read differently in every setting.
IMAGES = [0, 1, 2, 3, 4, 5, 6, 7, 20, 29]
# Places in IMAGES whose logits are kept.
WITH_LOGITS = [0, 7, 8, 9]


def make_parity_small(source: Path, target: Path = DATA):
    """
    Writes `parity_small.safetensors` and `parity_small.json`: the checkpoint as it is, but of the token embedding only
    the rows that captions of these images hold, and what the reference gave for a few images.
    """
    state, hyper_parameters = load_original_checkpoint(source / "tiny.ckpt")
    outputs = load_file(source / "tiny.safetensors")
    expected = json.loads((source / "tiny.json").read_text())
    kept = [IMAGES[place] for place in WITH_LOGITS]

    texts = [expected["visual_ar_text"], expected["visual_refined_text"], expected["captions"]]
    rows = torch.tensor(sorted(used_tokens({text for group in texts for text in group})))
    tensors = {f"state/{name}": tensor for name, tensor in state.items() if name != TOKEN_EMBEDDING}
    tensors |= {"token_rows": rows, "token_embedding": state[TOKEN_EMBEDDING][rows].clone()}
    tensors |= {"outputs/pixel_values": outputs["pixel_values"][IMAGES]}
    tensors |= {f"outputs/{name}": value[kept] for name, value in outputs.items() if name.endswith(".logits")}
    tensors |= {f"outputs/{name}": outputs[name] for name in ("image_features", "train.perms", "train.loss")}
    tensors["outputs/caption_ids"] = outputs["caption_ids"][IMAGES]

    small = {name: expected[name] for name in ("train_labels", "grad_norms")}
    for name in ("captions", "visual_ar_text", "visual_refined_text"):
        small[name] = [expected[name][i] for i in IMAGES]
    small["settings"] = {
        setting: {name: [values[i] for i in IMAGES] for name, values in fields.items()}
        for setting, fields in expected["settings"].items()
    }
    small |= {"hyper_parameters": hyper_parameters, "vocab_size": len(state[TOKEN_EMBEDDING])}
    small["with_logits"] = WITH_LOGITS

    target.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target / "parity_small.safetensors")
    (target / "parity_small.json").write_text(json.dumps(small, ensure_ascii=False) + "\n")


def used_tokens(texts: set[str]) -> set[int]:
    """The caption tokens of `texts` and of all that begins a text, which the orderings of the loss may read."""
    config = Clip4STRConfig()
    captioner = Clip4STRCaptioner(config)
    captioner.fill_tables()
    captioner.fill_merges()
    starts = {text[:length] for text in texts for length in range(len(text) + 1)}
    longest = max(map(len, starts))
    ids = [[config.charset.index(character) + 1 for character in text] for text in sorted(starts)]
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    return set(captioner(ids).flatten().tolist())


if __name__ == "__main__":
    make_parity_small(Path(sys.argv[1]))
