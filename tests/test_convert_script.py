# SPDX-License-Identifier: Apache-2.0
"""scripts/convert_clip4str_checkpoint.py, and the sizes that conversion reads off tensors."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clip4str_hf import Clip4STRForSceneTextRecognition, Clip4STRProcessor
from clip4str_hf.conversion_clip4str import convert_original_checkpoint


ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "convert_clip4str_checkpoint.py"


@pytest.fixture
def original(parity_small):
    """What a file of the original holds, for a test to change."""
    return {
        "state_dict": dict(parity_small.state),
        "hyper_parameters": dict(parity_small.expected["hyper_parameters"]),
    }


@pytest.fixture
def convert(monkeypatch):
    """The script's `main`, in this process."""
    spec = importlib.util.spec_from_file_location("convert_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def run(checkpoint, output_dir, *options):
        arguments = ["--checkpoint", checkpoint, "--output-dir", output_dir, *options]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        script.main()

    return run


def check_texts(folder, parity):
    model = Clip4STRForSceneTextRecognition.from_pretrained(folder)
    processor = Clip4STRProcessor.from_pretrained(folder)
    outputs = model.generate(parity.pixel_values, return_dict_in_generate=True)
    texts = [reading["text"] for reading in processor.post_process_text_recognition(outputs)]
    assert texts == parity.expected["settings"]["ar_refine1"]["text"]


def test_the_folder_reads_what_the_original_reads(parity_small, original, tmp_path):
    torch.save(original, tmp_path / "tiny.ckpt")
    folder = tmp_path / "not there yet" / "reader"
    command = [sys.executable, SCRIPT, "--checkpoint", tmp_path / "tiny.ckpt", "--output-dir", folder]
    found = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120)
    assert (found.returncode, found.stderr) == (0, "")
    for fact in ("3 layers, width 128, 2 heads", "64 x 64 pixels", "94 characters", "25 characters", "4,187,454"):
        assert fact in found.stdout
    assert f"--model {folder}" in found.stdout.splitlines()[-1]
    assert os.listdir(folder.parent) == ["reader"]

    check_texts(folder, parity_small)
    processor = Clip4STRProcessor.from_pretrained(folder)
    assert dict(processor.image_processor.size) == {"height": 64, "width": 64}
    assert processor.image_processor.image_mean == pytest.approx([0.48145466, 0.4578275, 0.40821073])


def test_sizes_come_from_the_tensors_and_not_from_the_name(convert, parity_small, original, tmp_path):
    # Under the name of a far larger model, and with its sizes in the hyper-parameters.
    checkpoint = tmp_path / "clip4str_huge_3e942729b1.pt"
    original["hyper_parameters"] |= {"img_size": [224, 224], "patch_size": [14, 14], "embed_dim": 1024, "dec_depth": 2}
    torch.save(original, checkpoint)
    folder = tmp_path / "clip4str-b16"
    folder.mkdir()  # an empty folder is taken
    convert(checkpoint, folder, "--image-normalization", "half")
    check_texts(folder, parity_small)
    processor = Clip4STRProcessor.from_pretrained(folder).image_processor
    assert [*processor.image_mean, *processor.image_std] == [0.5] * 6


def test_tensors_that_do_not_fit_are_all_named(convert, original, tmp_path):
    state = original["state_dict"]
    del state["cross_decoder.norm.bias"], state["clip_model.ln_final.weight"]
    state |= {"extra.one": torch.ones(1), "extra.two": torch.ones(1)}
    for name in ("cross_decoder.head.weight", "clip_model.visual.ln_pre.weight"):
        state[name] = torch.ones(7)
    torch.save(original, tmp_path / "wrong.ckpt")
    with pytest.raises(SystemExit) as stopped:
        convert(tmp_path / "wrong.ckpt", tmp_path / "out" / "reader")
    message = stopped.value.code
    for problem in (
        "missing: cross_decoder.norm.bias",
        "missing: text_tower.text_model.final_layer_norm.weight",
        "unknown: extra.one",
        "unknown: extra.two",
        "misshapen: cross_decoder.head.weight gives cross_decoder.head.weight (7,) instead of (95, 64)",
        "misshapen: clip_model.visual.ln_pre.weight",
    ):
        assert problem in message
    assert os.listdir(tmp_path) == ["wrong.ckpt"]


class Custom:
    """What a checkpoint of unknown origin may hold."""


def test_a_pickle_runs_no_code_unless_allowed(convert, parity_small, original, tmp_path):
    original["callbacks"] = Custom()
    torch.save(original, tmp_path / "custom.ckpt")
    with pytest.raises(SystemExit, match="allow pickle explicitly"):
        convert(tmp_path / "custom.ckpt", tmp_path / "reader")
    assert not (tmp_path / "reader").exists()
    with pytest.warns(UserWarning, match=r"custom\.ckpt is unpickled without limits"):
        convert(tmp_path / "custom.ckpt", tmp_path / "reader", "--allow-pickle")
    check_texts(tmp_path / "reader", parity_small)


def test_an_output_folder_with_files_is_left_alone(convert, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for taken in (tmp_path / "full", tmp_path / "full" / "mine.txt"):
        with pytest.raises(SystemExit, match="exists and is not an empty folder"):
            convert(tmp_path / "any.ckpt", taken)
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"


def damaged(path):
    torch.save({"state_dict": {"weight": torch.ones(1000)}}, path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_bytes(b""), "is damaged or holds more than tensors and plain values (EOFError)"),
        (lambda path: path.write_text("a text, no checkpoint"), "is damaged or holds more than tensors"),
        (damaged, "is damaged or holds more than tensors"),
        (lambda path: torch.save([1, 2], path), "holds a list"),
        (lambda path: torch.save({"state_dict": None}, path), "holds a NoneType as state_dict"),
        (lambda path: torch.save({"epoch": 3}, path), "are not names of tensors"),
        (lambda path: torch.save({0: torch.ones(1)}, path), "[0] are not names of tensors"),
        (lambda path: torch.save({"clip_model.visual.conv1.weight": torch.ones(3)}, path), "(3,) has 1 dimensions"),
        (lambda path: torch.save({"weight": torch.ones(1)}, path), "no CLIP4STR checkpoint"),
    ],
    ids=["missing", "empty", "text", "damaged", "list", "nothing", "no tensors", "no names", "flat", "another model"],
)
def test_what_is_no_checkpoint_is_named(convert, make, reason, tmp_path):
    make(tmp_path / "some.ckpt")
    with pytest.raises(SystemExit) as stopped:
        convert(tmp_path / "some.ckpt", tmp_path / "reader")
    assert "some.ckpt was not converted: " in stopped.value.code
    assert reason in stopped.value.code
    assert not (tmp_path / "reader").exists()


def shapes_of_original(image, text, size, vocab_size=49408):
    """Names and shapes of the original's tensors; a tower is (width, layers), size (grid, patch, projection)."""
    (grid, patch, width), length, classes = size, 26, 95

    def linear(name, outputs, inputs):
        return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}

    def norm(name, width):
        return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

    def attention(name, width):
        inner = {f"{name}.in_proj_weight": (3 * width, width), f"{name}.in_proj_bias": (3 * width,)}
        return inner | linear(f"{name}.out_proj", width, width)

    shapes = {
        "clip_model.logit_scale": (),
        "clip_model.positional_embedding": (77, text[0]),
        "clip_model.token_embedding.weight": (vocab_size, text[0]),
        "clip_model.text_projection": (text[0], width),
        "clip_model.visual.class_embedding": (image[0],),
        "clip_model.visual.positional_embedding": (grid**2 + 1, image[0]),
        "clip_model.visual.proj": (image[0], width),
        "clip_model.visual.conv1.weight": (image[0], 3, patch, patch),
    }
    shapes |= norm("clip_model.ln_final", text[0])
    shapes |= norm("clip_model.visual.ln_pre", image[0]) | norm("clip_model.visual.ln_post", image[0])
    for tower, (hidden, layers) in (("clip_model.visual", image), ("clip_model", text)):
        for block in (f"{tower}.transformer.resblocks.{index}" for index in range(layers)):
            shapes |= norm(f"{block}.ln_1", hidden) | norm(f"{block}.ln_2", hidden)
            shapes |= attention(f"{block}.attn", hidden)
            shapes |= linear(f"{block}.mlp.c_fc", 4 * hidden, hidden) | linear(
                f"{block}.mlp.c_proj", hidden, 4 * hidden
            )
    for decoder in ("visual_decoder", "cross_decoder"):
        layer = f"{decoder}.layers.0"
        shapes |= {f"{decoder}.pos_queries": (1, length, width)}
        shapes |= {f"{decoder}.text_embed.embedding.weight": (classes + 2, width)}
        shapes |= linear(f"{decoder}.head", classes, width) | norm(f"{decoder}.norm", width)
        shapes |= attention(f"{layer}.self_attn", width) | attention(f"{layer}.cross_attn", width)
        shapes |= linear(f"{layer}.linear1", 4 * width, width) | linear(f"{layer}.linear2", width, 4 * width)
        for name in ("norm1", "norm2", "norm_q", "norm_c"):
            shapes |= norm(f"{layer}.{name}", width)
    return shapes


def test_the_shapes_below_are_those_of_the_original(original):
    shapes = {name: tuple(tensor.shape) for name, tensor in original["state_dict"].items()}
    assert shapes_of_original(image=(128, 3), text=(64, 3), size=(4, 16, 64)) == shapes


@pytest.mark.parametrize(
    ("image", "text", "size", "heads", "millions"),
    [
        ((768, 12), (512, 12), (7, 32, 512), (12, 8), (160, 116)),
        ((768, 12), (512, 12), (14, 16, 512), (12, 8), (158, 114)),
        ((1024, 24), (768, 12), (16, 14, 768), (16, 12), (446, 366)),
        ((1280, 32), (1024, 24), (16, 14, 1024), (20, 16), (1020, 893)),
    ],
    ids=["B/32", "B/16", "L/14", "H/14"],
)
def test_released_sizes_are_recognised(image, text, size, heads, millions):
    shapes = shapes_of_original(image, text, size)
    with torch.device("meta"):
        model = convert_original_checkpoint({name: torch.empty(shape) for name, shape in shapes.items()})
    config = model.config
    towers = (config.vision_config, config.text_config)
    assert tuple((tower.hidden_size, tower.num_hidden_layers) for tower in towers) == (image, text)
    assert tuple(tower.num_attention_heads for tower in towers) == heads
    assert {tower.hidden_act for tower in towers} == {"quick_gelu"}
    assert config.image_size == [224, 224]
    counts = (model.num_parameters(), model.num_parameters(only_trainable=True))
    assert [count / 1e6 for count in counts] == pytest.approx(millions, rel=0.01)
