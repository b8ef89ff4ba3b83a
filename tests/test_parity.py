# SPDX-License-Identifier: Apache-2.0
"""The converted checkpoint does what the reference implementation did with it."""

import copy
import json

import pytest
import torch
from conftest import read_texts, spell
from safetensors.torch import load_file

from clip4str_hf.conversion_clip4str import _rename
from clip4str_hf.generation_clip4str import character_probabilities


SETTINGS = [f"ar_refine{refinements}{cross}" for refinements in (0, 1, 2) for cross in ("", "_single_pass_cross")]
CLOSE = {"rtol": 0, "atol": 1e-4}


def read(parity, setting):
    return parity.model.generate(
        parity.pixel_values,
        refine_iters=int(setting[len("ar_refine")]),
        cross_modal_single_pass=setting.endswith("_single_pass_cross"),
        return_dict_in_generate=True,
    )


def test_image_features_are_those_of_the_reference(parity):
    expected = parity.outputs["image_features"]
    features = parity.model.get_image_features(parity.pixel_values[: len(expected)])
    torch.testing.assert_close(features, expected, **CLOSE)


@pytest.mark.parametrize("setting", SETTINGS)
def test_logits_texts_and_probabilities_are_those_of_the_reference(parity, setting):
    output, expected = read(parity, setting), parity.expected["settings"][setting]
    torch.testing.assert_close(output.logits[parity.with_logits], parity.outputs[f"{setting}.logits"], **CLOSE)
    assert read_texts(parity.model, output.sequences) == expected["text"]
    torch.testing.assert_close(output.confidence, torch.tensor(expected["confidence"]), **CLOSE)
    _, probabilities, in_text = character_probabilities(output.logits)
    for row, counts, wanted in zip(probabilities, in_text, expected["char_probs"], strict=True):
        torch.testing.assert_close(row[counts], torch.tensor(wanted), **CLOSE)


def test_visual_branch_and_captions_are_those_of_the_reference(parity):
    model, expected = parity.model, parity.expected
    first, refined = read(parity, "ar_refine0"), read(parity, "ar_refine1")
    for output, name in ((first, "visual_ar"), (refined, "visual_refined")):
        torch.testing.assert_close(output.visual_logits[parity.with_logits], parity.outputs[f"{name}.logits"], **CLOSE)
        assert read_texts(model, output.visual_sequences) == expected[f"{name}_text"]
    captions = model.captioner(first.visual_logits.argmax(-1))
    assert captions.equal(parity.outputs["caption_ids"])
    by_text = [[model.config.charset.index(character) + 1 for character in text] for text in expected["captions"]]
    by_text = [row + [0] * (model.config.max_label_length + 1 - len(row)) for row in by_text]
    assert model.captioner(torch.tensor(by_text)).equal(captions)


def test_the_memory_of_the_cross_modal_branch_is_that_of_the_reference(parity_full):
    expected = parity_full.outputs["cross_memory_first.first4"]
    pixels, captions = parity_full.pixel_values[: len(expected)], parity_full.outputs["caption_ids"][: len(expected)]
    memory = [parity_full.model.get_image_features(pixels), parity_full.model.get_text_features(captions)]
    torch.testing.assert_close(torch.cat(memory, dim=1), expected, **CLOSE)


def gradients_after(parity, pixel_values, name):
    """The loss of the labels and orderings `name`, and the norm of the gradient of each tensor of the reference."""
    model = parity.model
    try:
        output = model(
            pixel_values,
            labels=spell(model, parity.expected[f"{name}_labels"]),
            permutations=parity.outputs[f"{name}.perms"],
        )
        output.loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    finally:
        model.zero_grad(set_to_none=True)
    norms = {}
    for old_name, tensor in parity.state.items():
        parts = [gradients.get(new_name) for new_name, _ in _rename(old_name, tensor)]
        frozen = all(part is None for part in parts)
        norms[old_name] = None if frozen else torch.cat([part.flatten() for part in parts]).norm().item()
    return output.loss.item(), norms


def check_training(parity, pixel_values, name, norms_name):
    loss, norms = gradients_after(parity, pixel_values, name)
    assert loss == pytest.approx(parity.outputs[f"{name}.loss"].item(), rel=1e-4)
    expected = parity.expected[norms_name]
    frozen = {name for name, norm in expected.items() if norm is None}
    assert {name for name, norm in norms.items() if norm is None} == frozen
    trained = sorted(expected.keys() - frozen)
    assert [norms[name] for name in trained] == pytest.approx([expected[name] for name in trained], rel=1e-3)


def test_loss_and_gradients_are_those_of_the_reference(parity):
    check_training(parity, parity.pixel_values[:8], "train", "grad_norms")


def test_loss_and_gradients_on_wrong_readings_are_those_of_the_reference(parity_full):
    check_training(parity_full, parity_full.pixel_values[12:], "train_hard", "train_hard_grad_norms")


def test_the_small_copy_is_cut_from_the_full_folder(parity_dir, parity_small, tmp_path):
    from make_parity_small import DATA, make_parity_small

    make_parity_small(parity_dir, tmp_path)
    assert json.loads((tmp_path / "parity_small.json").read_text()) == parity_small.expected
    made, kept = (load_file(folder / "parity_small.safetensors") for folder in (tmp_path, DATA))
    assert made.keys() == kept.keys()
    assert all(made[name].equal(kept[name]) for name in made)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_reads_the_same_clean_words(parity, dtype):
    model = copy.deepcopy(parity.model).to(dtype)
    clean = slice(parity.num_clean)
    sequences = model.generate(parity.pixel_values[clean].to(dtype))
    assert read_texts(model, sequences) == parity.expected["settings"]["ar_refine1"]["text"][clean]


def test_eager_and_sdpa_read_the_same_words(parity):
    model = copy.deepcopy(parity.model)
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        texts = read_texts(model, model.generate(parity.pixel_values))
        assert texts == parity.expected["settings"]["ar_refine1"]["text"]
