# SPDX-License-Identifier: Apache-2.0
"""`scripts/train.py`: three ways to start; the same result from the same seed, after a break too; two processes."""

import functools
import json
import os
import runpy
import shutil
import string
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import DatasetDict
from huggingface_hub import ModelCard
from launching import ACCELERATE, TORCHRUN, launch
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.utils import is_torch_bf16_gpu_available

from clip4str_hf import Clip4STRConfig, Clip4STRForSceneTextRecognition, Clip4STRProcessor
from clip4str_hf.data.saving import save_words
from clip4str_hf.data.words import load_words
from clip4str_hf.reading import load_reader
from clip4str_hf.training import recipe
from clip4str_hf.training.arguments import DataArguments, endless_contradiction


ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "train.py"
DATA = ROOT / "tests" / "data"
WORDS = DATA / "words"
FONTS = DATA / "fonts"
RENDERED = ["--fonts", FONTS, "--words", DATA / "words.txt", "--validation_data", WORDS]
STEPS = ["--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "steps", "--save_steps", "2"]
BROKEN_OFF = {"step": 0, "broken_off": 1}
SMALL = ["--per_device_train_batch_size", "4", "--logging_steps", "1", "--use_cpu"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with the configuration of a reader that trains in no time."""
    folder = tmp_path_factory.mktemp("tiny")
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower["projection_dim"] = 32
    Clip4STRConfig(
        vision_config=tower | {"patch_size": 8, "image_size": 32},
        text_config=tower | {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513},
        decoder_attention_heads=2,
        image_size=(32, 64),
        num_frozen_text_layers=-1,
        num_permutations=2,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lmdb(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words") / "lmdb"
    prepare = [sys.executable, ROOT / "scripts" / "prepare_dataset.py", WORDS, folder, "--format", "lmdb"]
    subprocess.run(list(map(str, prepare)), check=True, capture_output=True)
    return folder


def train(*arguments):
    argv, sys.argv = sys.argv, list(map(str, [SCRIPT, *arguments]))
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as end:
        assert not end.code, end.code
    finally:
        sys.argv = argv


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def history(folder):
    return json.loads((Path(folder) / "trainer_state.json").read_text())["log_history"]


def break_off(checkpoint, folder):
    """
    Puts a checkpoint into a folder, as if a run had broken off there, with a line in its history that only a run that
    goes on from it has. One that starts again would end with the same weights.
    """
    copy = Path(shutil.copytree(checkpoint, folder / checkpoint.name))
    state = json.loads((copy / "trainer_state.json").read_text())
    state["log_history"].append(BROKEN_OFF)
    (copy / "trainer_state.json").write_text(json.dumps(state))


def test_fine_tunes_a_trained_reader_and_keeps_what_was_best(tmp_path, tiny):
    torch.manual_seed(0)
    config = Clip4STRConfig.from_pretrained(tiny)
    Clip4STRForSceneTextRecognition(config).save_pretrained(tmp_path / "reader")
    Clip4STRProcessor.from_config(config).save_pretrained(tmp_path / "reader")
    options = ["--model_name_or_path", tmp_path / "reader", "--train_data", WORDS, "--validation_share", "0.25"]
    # The highest loss is that of the first epoch, so that the best is not the last.
    best = ["--metric_for_best_model", "loss", "--greater_is_better", "True"]
    train(*options, *SMALL, *best, "--num_train_epochs", "2", "--output_dir", tmp_path / "out")
    state = json.loads((tmp_path / "out" / "checkpoint-6" / "trainer_state.json").read_text())
    assert Path(state["best_model_checkpoint"]).name == "checkpoint-3"
    assert same(weights(tmp_path / "out"), weights(state["best_model_checkpoint"]))
    assert not same(weights(tmp_path / "out"), weights(tmp_path / "out" / "checkpoint-6"))
    model = Clip4STRForSceneTextRecognition.from_pretrained(tmp_path / "out")
    assert not same(model.state_dict(), weights(tmp_path / "reader"))
    Clip4STRProcessor.from_pretrained(tmp_path / "out")
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert "eval_word_accuracy" in results and results["epoch"] == 2
    evaluated = [entry for entry in history(tmp_path / "out" / "checkpoint-6") if "eval_loss" in entry]
    assert [entry["epoch"] for entry in evaluated] == [0, 1, 2]


def test_teaches_a_trained_reader_other_characters_and_lengths(tmp_path, tiny):
    config = Clip4STRConfig.from_pretrained(tiny)
    Clip4STRForSceneTextRecognition(config).save_pretrained(tmp_path / "reader")
    Clip4STRProcessor.from_config(config, image_mean=[0.5] * 3).save_pretrained(tmp_path / "reader")
    charset = ["--charset", f"@{DATA / 'ukrainian.txt'}", "--max_label_length", "12", "--caption_context_length", "26"]
    rendered = ["--fonts", FONTS, "--words", DATA / "ukrainian_words.txt", "--validation_data", WORDS]
    steps = ["--difficult_from", "0", "--plain_until", "0", "--max_steps", "2"]
    options = ["--model_name_or_path", tmp_path / "reader", *charset, *rendered, *steps]
    train(*options, *SMALL, *STEPS, "--visual_only", "True", "--output_dir", tmp_path / "out")
    model = Clip4STRForSceneTextRecognition.from_pretrained(tmp_path / "out")
    processor = Clip4STRProcessor.from_pretrained(tmp_path / "out")
    assert model.config.charset == processor.tokenizer.charset and "Ї" in model.config.charset
    assert (model.config.max_label_length, processor.tokenizer.max_label_length) == (12, 12)
    assert "ї" in model.config.caption_charset and model.config.caption_context_length == 26
    assert list(processor.image_processor.image_mean) == [0.5] * 3
    assert model.config.cross_modal_loss_weight == 0 and model.generation_config.visual_only
    learnt, start = weights(tmp_path / "out"), weights(tmp_path / "reader")
    assert {
        name.split(".")[0]
        for name in start
        if start[name].shape == learnt[name].shape and not torch.equal(learnt[name], start[name])
    } == {"vision_tower", "visual_decoder"}


def test_starts_from_nothing_with_the_images_of_the_reader_whose_configuration_it_takes(tmp_path, tiny):
    config = Clip4STRConfig.from_pretrained(tiny)
    config.save_pretrained(tmp_path / "reader")
    Clip4STRProcessor.from_config(config, image_mean=[0.5] * 3, do_align_long_axis=True).save_pretrained(
        tmp_path / "reader"
    )
    options = ["--config_name", tmp_path / "reader", "--image_size", "32", "96", *RENDERED, *SMALL, *STEPS]
    train(*options, "--max_steps", "2", "--output_dir", tmp_path / "out")
    image_processor = load_reader(tmp_path / "out")[1].image_processor
    assert list(image_processor.image_mean) == [0.5] * 3 and image_processor.do_align_long_axis
    assert image_processor.size == {"height": 32, "width": 96}


def test_gives_a_trained_reader_wider_images(tmp_path, tiny):
    config = Clip4STRConfig.from_pretrained(tiny)
    Clip4STRForSceneTextRecognition(config).save_pretrained(tmp_path / "reader")
    Clip4STRProcessor.from_config(config, image_mean=[0.5] * 3).save_pretrained(tmp_path / "reader")
    options = ["--model_name_or_path", tmp_path / "reader", "--image_size", "32", "96", *RENDERED]
    options += ["--do_align_long_axis", "True"]
    train(*options, *SMALL, *STEPS, "--max_steps", "2", "--output_dir", tmp_path / "out")
    model, processor = load_reader(tmp_path / "out")
    assert model.config.image_size == [32, 96]
    assert processor.image_processor.size == {"height": 32, "width": 96}
    assert processor.image_processor.do_align_long_axis
    assert list(processor.image_processor.image_mean) == [0.5] * 3
    assert weights(tmp_path / "out").keys() == weights(tmp_path / "reader").keys()
    with pytest.raises(AssertionError, match=r"image_size=\[32, 99\] must be \[height, width\], both multiples of"):
        train(
            *options, "--image_size", "32", "99", *SMALL, *STEPS, "--max_steps", "2", "--output_dir", tmp_path / "no"
        )
    assert not (tmp_path / "no").exists()


@pytest.mark.skipif(is_torch_bf16_gpu_available(), reason="half precision of the GPU is taken")
def test_trains_in_half_precision_on_a_cpu_that_has_it(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    forward, seen = Clip4STRForSceneTextRecognition.forward, set()

    @functools.wraps(forward)
    def watched(self, *args, **kwargs):
        autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
        seen.add((autocast, self.config._attn_implementation))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Clip4STRForSceneTextRecognition, "forward", watched)
    options = ["--config_name", tiny, *RENDERED, *STEPS, "--max_steps", "2", "--per_device_train_batch_size", "4"]
    train(*options, "--output_dir", tmp_path / "out")
    assert seen == {(torch.bfloat16, "eager")}
    assert {tensor.dtype for tensor in weights(tmp_path / "out").values()} == {torch.float32}


def test_makes_a_reader_out_of_clip(tmp_path):
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    clip = CLIPModel(
        CLIPConfig(
            text_config=tower | {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "num_hidden_layers": 6},
            vision_config=tower | {"patch_size": 16, "image_size": 32},
            projection_dim=64,
        )
    )
    clip.save_pretrained(tmp_path / "clip")
    image_processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    (tmp_path / "vocab.json").write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    CLIPProcessor(image_processor, tokenizer).save_pretrained(tmp_path / "clip")
    options = ["--clip_name_or_path", tmp_path / "clip", "--train_data", WORDS, "--decoder_rate_factor", "19"]
    options += ["--image_size", "32", "64"]
    train(*options, *SMALL, *STEPS, "--max_steps", "2", "--output_dir", tmp_path / "out")
    assert load_reader(tmp_path / "out")[1].image_processor.size == {"height": 32, "width": 64}
    trained = weights(tmp_path / "out")
    started = clip.state_dict()["vision_model.embeddings.patch_embedding.weight"]
    learnt = trained["vision_tower.vision_model.embeddings.patch_embedding.weight"]
    assert 0 < (learnt - started).abs().max() < 0.01
    assert (
        ModelCard.load(tmp_path / "out" / "README.md").data.base_model is None
    )  # a folder of ours is nothing to link


def test_a_broken_run_goes_on_and_ends_as_an_unbroken_one(tmp_path, tiny):
    options = ["--config_name", tiny, *RENDERED, "--train_data", WORDS, "--max_steps", "4", *SMALL, *STEPS]
    train(*options, "--output_dir", tmp_path / "whole", "--load_best_model_at_end", "False")
    train(*options, "--output_dir", tmp_path / "again", "--load_best_model_at_end", "False")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "again"))

    break_off(tmp_path / "whole" / "checkpoint-2", tmp_path / "broken")
    train(*options, "--output_dir", tmp_path / "broken", "--load_best_model_at_end", "False")
    assert BROKEN_OFF in history(tmp_path / "broken" / "checkpoint-4")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    train(*options, "--output_dir", tmp_path / "other", "--load_best_model_at_end", "False", "--seed", "1")
    assert not same(weights(tmp_path / "whole"), weights(tmp_path / "other"))


def test_a_broken_fine_tuning_goes_on_with_the_augmentations_of_its_epoch(tmp_path, tiny):
    # Ten words in three steps: the fourth is in the middle of the second epoch.
    options = ["--config_name", tiny, "--train_data", WORDS, "--max_steps", "6", *SMALL, *STEPS]
    options += ["--load_best_model_at_end", "False", "--save_total_limit", "3"]
    train(*options, "--output_dir", tmp_path / "whole")
    break_off(tmp_path / "whole" / "checkpoint-4", tmp_path / "broken")
    train(*options, "--output_dir", tmp_path / "broken")
    assert BROKEN_OFF in history(tmp_path / "broken" / "checkpoint-6")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))


def test_a_run_that_goes_on_outlives_the_checkpoint_where_it_was_broken(tmp_path, tiny):
    # By its loss the first checkpoint is not the best, which would be kept.
    options = ["--config_name", tiny, *RENDERED, *SMALL, *STEPS, "--metric_for_best_model", "loss"]
    train(*options, "--max_steps", "2", "--output_dir", tmp_path / "out")
    (tmp_path / "out" / "model.safetensors").unlink()
    train(*options, "--max_steps", "6", "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoint-2").exists()
    assert same(weights(tmp_path / "out"), weights(tmp_path / "out" / "checkpoint-6"))


WATCHED = """
import gc
import runpy
import sys

import torch
from torch.nn.parallel import DistributedDataParallel

destroy_process_group = torch.distributed.destroy_process_group


def count_and_destroy(group=None):
    wrappers = sum(isinstance(found, DistributedDataParallel) for found in gc.get_objects())
    destroy_process_group(group)
    print(f"wrappers at the end of the group: {wrappers}\\n", end="", flush=True)


torch.distributed.destroy_process_group = count_and_destroy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


# `accelerate launch --cpu` starts one process, unless it has MPI.
@pytest.mark.parametrize("launcher, streamed", [(TORCHRUN, True), (ACCELERATE, False)], ids=["torchrun", "accelerate"])
def test_two_processes(tmp_path, tiny, lmdb, launcher, streamed):
    # Eleven words are no equal parts for two processes.
    eleven = shutil.copytree(WORDS, tmp_path / "eleven")
    *rows, left_out = (eleven / "metadata.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (eleven / "metadata.csv").write_text("".join(rows), encoding="utf-8")
    (eleven / left_out.partition(",")[0]).unlink()
    data = ["--train_data", lmdb, "--streaming", "--validation_data", eleven] if streamed else RENDERED
    options = ["--config_name", tiny, *data, "--max_steps", "2", *SMALL, *STEPS]
    program = tmp_path / "train.py"
    program.write_text(WATCHED)
    command = [launcher, program, SCRIPT, *options, "--output_dir", tmp_path / "out"]
    printed = launch(*command, HF_DATASETS_CACHE=str(tmp_path / "cache"))
    summary = [entry for entry in history(tmp_path / "out" / "checkpoint-2") if "eval_word_accuracy" in entry]
    assert len(summary) == 2  # before the first step, and after the second
    assert printed.count("***** eval metrics *****") == 1
    # A wrapper of the model that is freed after the group may wait for its threads forever.
    assert printed.count("wrappers at the end of the group: 0") == 2
    Clip4STRForSceneTextRecognition.from_pretrained(tmp_path / "out")


def test_a_checkpoint_that_was_not_written_to_its_end_is_passed_over(tmp_path, tiny):
    options = ["--config_name", tiny, *RENDERED, *SMALL, *STEPS, "--output_dir", tmp_path / "out"]
    train(*options, "--max_steps", "2")
    (tmp_path / "out" / "checkpoint-9").mkdir()
    # Long ago: `Trainer` keeps the newest, and takes those of one second in the order of their numbers.
    os.utime(tmp_path / "out" / "checkpoint-9", (0, 0))
    train(*options, "--max_steps", "4")
    assert json.loads((tmp_path / "out" / "checkpoint-4" / "trainer_state.json").read_text())["global_step"] == 4


@pytest.mark.parametrize(
    "option, field", [(["--charset", string.ascii_lowercase], "charset"), (["--image_size", "32", "96"], "image_size")]
)
def test_another_reader_does_not_go_on_from_the_checkpoints_of_one(tmp_path, tiny, option, field):
    options = ["--config_name", tiny, *RENDERED, *SMALL, *STEPS, "--output_dir", tmp_path / "out"]
    train(*options, "--charset", string.ascii_uppercase, "--max_steps", "2")
    before = sorted((tmp_path / "out").rglob("*"))
    with pytest.raises(AssertionError, match=f"checkpoint-2 has {field}=.*: give another output_dir"):
        train(*options, "--charset", string.ascii_uppercase, *option, "--max_steps", "4")
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_weights_alone_do_not_go_on_but_may_be_started_from(tmp_path, tiny):
    options = [*RENDERED, *SMALL, *STEPS, "--save_only_model", "True", "--output_dir"]
    train("--config_name", tiny, *options, tmp_path / "out", "--max_steps", "2")
    checkpoint = tmp_path / "out" / "checkpoint-2"
    with pytest.raises(AssertionError, match="checkpoint-2 was saved with --save_only_model, and its training cannot"):
        train("--config_name", tiny, *options, tmp_path / "out", "--max_steps", "4")
    train("--model_name_or_path", checkpoint, *options, tmp_path / "other", "--max_steps", "2")


def test_half_precision_is_trained_in_full(tmp_path, tiny):
    config = Clip4STRConfig.from_pretrained(tiny)
    Clip4STRForSceneTextRecognition(config).to(torch.bfloat16).save_pretrained(tmp_path / "reader")
    Clip4STRProcessor.from_config(config).save_pretrained(tmp_path / "reader")
    options = ["--model_name_or_path", tmp_path / "reader", "--train_data", WORDS, "--max_steps", "1"]
    train(*options, *SMALL, "--output_dir", tmp_path / "out")
    assert {tensor.dtype for tensor in weights(tmp_path / "out").values()} <= {torch.float32, torch.int64}


def test_a_new_reader_has_no_calibration_of_another(tmp_path, tiny):
    config = Clip4STRConfig.from_pretrained(tiny, confidence_temperature=2.0)
    config.save_pretrained(tmp_path / "calibrated")
    options = ["--config_name", tmp_path / "calibrated", "--train_data", WORDS, "--max_steps", "1"]
    train(*options, *SMALL, "--output_dir", tmp_path / "out")
    assert Clip4STRConfig.from_pretrained(tmp_path / "out").confidence_temperature == 1


def test_streams_lmdb(tmp_path, tiny, lmdb):
    options = ["--config_name", tiny, "--train_data", lmdb, "--streaming", "--validation_data", WORDS]
    options += [*SMALL, *STEPS, "--max_steps", "3", "--load_best_model_at_end", "False", "--output_dir"]
    train(*options, tmp_path / "out")
    logged = history(tmp_path / "out" / "checkpoint-3")
    assert [entry["step"] for entry in logged if "loss" in entry] == [1, 2, 3]
    train(*options, tmp_path / "plain", "--augment", "False")
    assert not same(weights(tmp_path / "out"), weights(tmp_path / "plain"))
    train(*options, tmp_path / "other", "--seed", "1")
    assert not same(weights(tmp_path / "out"), weights(tmp_path / "other"))

    train(*options, tmp_path / "again")
    assert same(weights(tmp_path / "out"), weights(tmp_path / "again"))
    break_off(tmp_path / "out" / "checkpoint-2", tmp_path / "broken")
    train(*options, tmp_path / "broken")
    assert BROKEN_OFF in history(tmp_path / "broken" / "checkpoint-3")
    assert same(weights(tmp_path / "out"), weights(tmp_path / "broken"))


def load(**arguments):
    """What the script would train and validate on."""
    return recipe.load_data(DataArguments(**arguments), Clip4STRProcessor.from_config(Clip4STRConfig()), seed=0)


@pytest.mark.parametrize("workers", [None, 2])
def test_validates_on_the_validation_split(tmp_path, workers):
    words = load_words(WORDS)
    splits = {"train": range(6), "validation": range(6, 9), "test": range(9, 12)}
    DatasetDict({name: words.select(rows) for name, rows in splits.items()}).save_to_disk(tmp_path / "set")
    source = {"train_data": [str(tmp_path / "set")], "validation_data": str(tmp_path / "set")}
    found = [set(part["text"]) for part in load(**source, preprocessing_num_workers=workers)]
    assert found == [set(words[range(6)]["text"]), set(words[range(6, 9)]["text"])]
    _, validation = load(**source, validation_split="test")
    assert set(validation["text"]) == set(words[range(9, 12)]["text"])
    DatasetDict(train=words, test=words).save_to_disk(tmp_path / "other")
    with pytest.raises(ValueError, match=r"has the splits \['train', 'test'\], not 'validation'"):
        load(**source | {"validation_data": str(tmp_path / "other")})


def test_a_configuration_is_of_sets_of_the_hub(monkeypatch):
    asked = {}

    def fake_load_words(source, *args, name=None, **options):
        asked[source] = name
        return load_words(WORDS)

    monkeypatch.setattr(recipe, "load_words", fake_load_words)
    load(train_data=["me/words"], validation_data=str(WORDS), dataset_config_name="plates")
    assert asked == {"me/words": "plates", str(WORDS): None}


def test_processes_cannot_log_by_epochs_of_a_stream():
    data = SimpleNamespace(streaming=True)
    options = {"max_steps": 2, "eval_strategy": "steps", "save_strategy": "steps", "gradient_accumulation_steps": 1}
    found = [
        endless_contradiction(data, SimpleNamespace(**options, logging_strategy=strategy, world_size=processes))
        for strategy, processes in (("epoch", 2), ("epoch", 1), ("steps", 2))
    ]
    assert "--logging_strategy steps" in found[0] and found[1:] == [None, None]


def test_streams_of_several_sets_are_read_in_the_share_of_their_words(tmp_path, lmdb):
    save_words(load_words(WORDS).select([0]), tmp_path / "one")
    sources = [str(lmdb), str(tmp_path / "one")]
    words, _ = load(train_data=sources, streaming=True, validation_data=str(WORDS))
    texts = load_words(WORDS)["text"]
    assert sorted(row["text"] for row in words) == sorted([*texts, texts[0]])
    assert words.num_shards == load_words(lmdb, streaming=True).num_shards + 1


def test_a_reader_of_one_branch_gets_its_other_back(tmp_path, tiny):
    config = Clip4STRConfig.from_pretrained(tiny, cross_modal_loss_weight=0.0)
    Clip4STRForSceneTextRecognition(config).save_pretrained(tmp_path / "reader")
    Clip4STRProcessor.from_config(config).save_pretrained(tmp_path / "reader")
    options = ["--model_name_or_path", tmp_path / "reader", "--train_data", WORDS, "--max_steps", "1", *SMALL]
    train(*options, "--output_dir", tmp_path / "one")
    assert load_reader(tmp_path / "one")[0].generation_config.visual_only
    train(*options, "--visual_only", "False", "--output_dir", tmp_path / "both")
    model, _ = load_reader(tmp_path / "both")
    assert model.config.cross_modal_loss_weight == 1 and not model.generation_config.visual_only


def test_a_training_at_its_end_says_that_nothing_was_trained(tmp_path, tiny, caplog):
    options = ["--config_name", tiny, *RENDERED, *SMALL, *STEPS, "--max_steps", "2", "--output_dir", tmp_path / "out"]
    train(*options)
    assert "Nothing was trained" not in caplog.text
    card = tmp_path / "out" / "README.md"
    card.write_text(card.read_text(encoding="utf-8") + "\nOf my town's plates.\n", encoding="utf-8")
    train(*options)
    assert "checkpoint-2 is the end of that training" in caplog.text
    assert card.read_text(encoding="utf-8").endswith("\nOf my town's plates.\n")


@pytest.mark.parametrize("option", [["--predict_with_generate", "False"], ["--prediction_loss_only", "True"]])
def test_validates_by_loss_alone(tmp_path, tiny, option):
    options = ["--config_name", tiny, "--train_data", WORDS, *option]
    train(*options, *SMALL, *STEPS, "--max_steps", "2", "--output_dir", tmp_path / "out")
    logged = [entry for entry in history(tmp_path / "out" / "checkpoint-2") if "eval_loss" in entry]
    assert logged and not any("eval_word_accuracy" in entry for entry in logged)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--train_data, --fonts or both"),
        (["--train_data", WORDS, "--streaming"], "validation_data"),
        (["--fonts", FONTS], "validation_data"),
        ([*RENDERED], "give --max_steps"),
        (["--train_data", WORDS, "--streaming", "--validation_data", WORDS], "give --max_steps"),
        (["--train_data", WORDS, "--validation_split", "test"], "--validation_split is of --validation_data"),
        (["--train_data", WORDS, "--backgrounds", WORDS], "--backgrounds is of rendered words"),
        (["--train_data", WORDS, "--optim", "adafactor"], "--optim does not apply"),
        (["--train_data", WORDS, "--dataloader_drop_last", "True"], "--dataloader_drop_last does not apply"),
        (["--train_data", WORDS, "--seed", "-1"], "Seed must be between 0 and"),
        (
            ["--train_data", WORDS, "--predict_with_generate", "False", "--metric_for_best_model", "one_minus_ned"],
            "--metric_for_best_model one_minus_ned needs validation words that are read",
        ),
        (["--train_data", "none", "--resume_from_checkpoint", "no-run"], "no-run is no checkpoint of a training"),
        (["--train_data", WORDS, "--metric_for_best_model", "eval_accuracy"], "--metric_for_best_model eval_accuracy"),
        (["--train_data", WORDS, "--charset", "~", "--clean_labels", "False"], "no words are left"),
        (["--train_data", WORDS, "--charset", "00"], "charset holds characters more than once"),
        (["--train_data", WORDS, "--charset", "@absent.txt"], "absent.txt"),
        (["--train_data", WORDS, "--config_name", "a", "--clip_name_or_path", "b"], "one of --model_name_or_path"),
        (["--train_data", "nowhere/at-all/here"], "nowhere"),
        (["--train_data", WORDS, "--resume_from_checkpoint", "checkpoint-7"], "checkpoint-7"),
        ([*RENDERED, "--train_data", WORDS, "--streaming"], "--streaming does not go with --fonts"),
        (["--train_data", WORDS, "--label_smoothing_factor", "0.1"], "label_smoothing_factor 0.1 must be 0"),
        (["--train_data", WORDS, "--save_total_limit", "1"], "--save_total_limit 1 would keep the best"),
        (["--train_data", WORDS, "--save_strategy", "steps"], "strategy to match"),
        (["--train_data", WORDS, "--dataset_config_name", "a"], "--dataset_config_name a is of sets of the Hub"),
        ([*RENDERED, "--real_share", "0.1"], "--real_share is of --train_data"),
        ([*RENDERED, "--train_split", "test"], "--train_split is of --train_data"),
        ([*RENDERED, "--max_steps", "2", *STEPS, "--ignore_data_skip", "True"], "--ignore_data_skip does"),
        ([*RENDERED, "--max_steps", "2", *STEPS, "--auto_find_batch_size", "True"], "--auto_find_batch_size does"),
        (["--train_data", WORDS, "--num_permutations", "3"], "num_permutations=3 must be 1 or even"),
        ([*RENDERED, "--max_steps", "2"], "validate and save by steps: give --eval_strategy steps"),
        (["--train_data", WORDS, "--validation_data", WORDS, "--validation_share", "0.5"], "--validation_share"),
        (["--train_data", WORDS, "--validation_share", "1.0"], "--validation_share 1.0 must lie between 0 and 1"),
        (["--train_data", WORDS, "--augment", "False", "--augment_magnitude", "9"], "--augment_magnitude"),
        (["--train_data", WORDS, "--dataloader_persistent_workers", "True"], "--dataloader_persistent_workers would"),
        (
            [*RENDERED, "--max_steps", "2", *STEPS, "--train_sampling_strategy", "group_by_length"],
            "--train_sampling_strategy does not apply",
        ),
    ],
)
def test_says_what_is_missing(tmp_path, arguments, message, capsys):
    # What `train` makes of an exit with a message; an error with its traceback would go through.
    with pytest.raises(AssertionError) as error:
        train(*arguments, "--use_cpu", "--output_dir", tmp_path / "out")
    assert message in str(error.value) + capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
