# SPDX-License-Identifier: Apache-2.0
"""transformers' `Trainer` and `Seq2SeqTrainer` train the reader as they train any model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageColumn
from huggingface_hub import ModelCard
from launching import TORCHRUN, launch
from PIL import Image, ImageDraw, ImageFont
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

from clip4str_hf import (
    Clip4STRConfig,
    Clip4STRForSceneTextRecognition,
    Clip4STRImageProcessor,
    Clip4STRProcessor,
    Clip4STRTokenizer,
    optimizer_groups,
)
from clip4str_hf.training.collator import DataCollatorForTextRecognition
from clip4str_hf.training.reader_trainer import ReaderTrainer


WORDS = ["Exit", "STOP", "taxi", "Bank", "24h", "OPEN", "Bus", "new"]


def make_processor():
    return Clip4STRProcessor(
        Clip4STRImageProcessor(size={"height": 32, "width": 64}), Clip4STRTokenizer(max_label_length=8)
    )


@pytest.fixture(scope="module")
def processor():
    return make_processor()


def render(words):
    font = ImageFont.load_default(size=24)
    images = []
    for word in words:
        image = Image.new("RGB", (int(font.getlength(word)) + 8, 36), "white")
        ImageDraw.Draw(image).text((4, 2), word, "black", font)
        images.append(image)
    columns = Features({"image": ImageColumn(), "text": Value("string")})
    return Dataset.from_dict({"image": images, "text": list(words)}, features=columns)


@pytest.fixture(scope="module")
def words():
    return render(WORDS)


def make_model(**options):
    torch.manual_seed(0)
    tower = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Clip4STRConfig(
        text_config=tower | {"projection_dim": 64, "vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513},
        vision_config=tower | {"projection_dim": 64, "image_size": 32, "patch_size": 8},
        image_size=[32, 64],
        max_label_length=8,
        num_frozen_text_layers=1,
        **options,
    )
    return Clip4STRForSceneTextRecognition(config)


def make_trainer(folder, processor, words, model=None, trainer_class=Trainer, trainer_options=None, **options):
    arguments = {
        "output_dir": folder,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "max_steps": 4,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "remove_unused_columns": False,
    } | options
    arguments_class = TrainingArguments if trainer_class is Trainer else Seq2SeqTrainingArguments
    return trainer_class(
        model=make_model() if model is None else model,
        args=arguments_class(**arguments),
        data_collator=DataCollatorForTextRecognition(processor),
        train_dataset=words,
        eval_dataset=words,
        processing_class=processor,
        **trainer_options or {},
    )


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def word_accuracy(processor):
    def compute(prediction):
        read = processor.batch_decode(prediction.predictions)
        labels = np.where(prediction.label_ids == -100, processor.tokenizer.pad_token_id, prediction.label_ids)
        texts = processor.batch_decode(labels)
        assert set(texts) <= set(WORDS)
        return {"word_accuracy": float(np.mean([a == b for a, b in zip(read, texts, strict=True)]))}

    return compute


def test_the_collator_makes_the_inputs_of_the_model(processor, words):
    inputs = DataCollatorForTextRecognition(processor)([words[0], words[4]])
    assert inputs["pixel_values"].shape == (2, 3, 32, 64)
    assert inputs["labels"].tolist() == [[95, 41, 34, 19, 30, 0], [95, 3, 5, 18, 0, -100]]
    assert processor.batch_decode(inputs["labels"]) == ["Exit", "24h"]
    renamed = [{"picture": words[0]["image"], "word": "Exit"}]
    assert sorted(DataCollatorForTextRecognition(processor, "picture", "word")(renamed)) == ["labels", "pixel_values"]
    assert list(DataCollatorForTextRecognition(processor, "picture", None)(renamed)) == ["pixel_values"]
    with pytest.raises(ValueError, match=r"No column 'image' among \['picture', 'word'\]"):
        DataCollatorForTextRecognition(processor)(renamed)
    with pytest.raises(ValueError, match=r"No column 'text' among \['image'\]"):
        DataCollatorForTextRecognition(processor)([words[0], {"image": words[1]["image"]}])
    for label in (None, 7):
        with pytest.raises(ValueError, match=f"The label of image 1 is {label}: a text is needed"):
            DataCollatorForTextRecognition(processor)([words[0], words[1] | {"text": label}])


def test_the_loss_falls_and_the_words_are_learnt(tmp_path, processor, words):
    trainer = make_trainer(
        tmp_path,
        processor,
        words,
        trainer_class=Seq2SeqTrainer,
        trainer_options={"compute_metrics": word_accuracy(processor)},
        predict_with_generate=True,
        per_device_train_batch_size=8,
        max_steps=100,
        learning_rate=4e-3,
        lr_scheduler_type="cosine",
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    found = losses(trainer)
    assert sum(found[-5:]) < 0.3 * sum(found[:5])
    assert after["eval_loss"] < 0.3 * before["eval_loss"]
    assert before["eval_word_accuracy"] == 0
    assert after["eval_word_accuracy"] >= 0.75

    # generate's options go through the trainer; sequences that are shorter are padded to the model's own length.
    short = trainer.predict(words, max_length=4, num_beams=1)
    assert short.predictions.shape == (8, 10)
    assert all(len(text) <= 3 for text in processor.batch_decode(short.predictions))
    visual = trainer.predict(words, visual_only=True, refine_iters=0)
    assert visual.metrics["test_word_accuracy"] >= 0.75
    with pytest.raises(ValueError, match="num_beams=4"):
        trainer.predict(words, num_beams=4)

    # What is saved reads the same.
    trainer.save_model(tmp_path / "saved")
    model = Clip4STRForSceneTextRecognition.from_pretrained(tmp_path / "saved")
    inputs = Clip4STRProcessor.from_pretrained(tmp_path / "saved")(words[:]["image"], return_tensors="pt")
    read = processor.batch_decode(model.generate(**inputs))
    assert np.mean([a == b for a, b in zip(read, WORDS, strict=True)]) == after["eval_word_accuracy"]


def test_generation_options_of_the_arguments(tmp_path, processor, words):
    options = {"trainer_class": Seq2SeqTrainer, "predict_with_generate": True}
    trainer = make_trainer(tmp_path, processor, words, generation_max_length=5, generation_num_beams=1, **options)
    found = trainer.predict(words)
    assert (found.predictions[:, 5:] == processor.tokenizer.pad_token_id).all()
    assert (found.label_ids[:, 0] == processor.tokenizer.bos_token_id).all()
    # Processes that share the parameters take all steps together; the texts stay the same.
    inputs = trainer._prepare_inputs(trainer.data_collator([words[0]]))
    texts = [processor.batch_decode(trainer.model.generate(**inputs, synced_gpus=synced)) for synced in (False, True)]
    assert texts[0] == texts[1]


def test_towers_keep_their_own_tokens(tmp_path, processor, words):
    # Trainer aligns the special tokens of model and processor, which CLIP's text tower has no part in.
    trainer = make_trainer(tmp_path, processor, words, max_steps=1)
    trainer.train()
    trainer.save_model()
    config = json.loads((tmp_path / "config.json").read_text())
    assert [config["text_config"][f"{name}_token_id"] for name in ("bos", "eos")] == [512, 513]
    assert [config[f"{name}_token_id"] for name in ("eos", "bos", "pad")] == [0, 95, 96]


def test_a_seed_is_a_run(tmp_path, processor, words):
    runs = []
    for seed in (1, 1, 2):
        trainer = make_trainer(tmp_path, processor, words, seed=seed, max_steps=3)
        trainer.train()
        runs.append((losses(trainer), weights(trainer.model)))
    assert runs[0][0] == runs[1][0] != runs[2][0]
    assert_same(runs[0][1], runs[1][1])


def test_a_resumed_run_goes_on_exactly(tmp_path, processor, words):
    # Two steps an epoch: the checkpoint lies within the second. Orderings and dropout are random in every step.
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    whole = make_trainer(tmp_path / "whole", processor, words, **options)
    whole.train()
    torch.manual_seed(99)
    resumed = make_trainer(tmp_path / "resumed", processor, words, model=make_model(), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert len(losses(whole)) == 6
    assert losses(resumed) == losses(whole)
    assert_same(weights(resumed.model), weights(whole.model))


def test_the_best_checkpoint_is_loaded_at_the_end(tmp_path, processor, words):
    # The loss falls, so that the highest is that of the first checkpoint: the best one is not the last.
    trainer = make_trainer(
        tmp_path,
        processor,
        words,
        max_steps=12,
        save_strategy="steps",
        eval_strategy="steps",
        save_steps=4,
        eval_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-4")
    best = Clip4STRForSceneTextRecognition.from_pretrained(tmp_path / "checkpoint-4")
    last = Clip4STRForSceneTextRecognition.from_pretrained(tmp_path / "checkpoint-12")
    assert_same(weights(trainer.model), weights(best))
    assert not torch.equal(last.cross_decoder.head.weight, best.cross_decoder.head.weight)


def test_bfloat16_trains_and_reads(tmp_path, processor, words):
    trainer = make_trainer(
        tmp_path,
        processor,
        words,
        trainer_class=Seq2SeqTrainer,
        bf16=True,
        predict_with_generate=True,
        per_device_train_batch_size=8,
        max_steps=15,
    )
    trainer.train()
    found = losses(trainer)
    assert np.isfinite(found).all()
    assert sum(found[-3:]) < 0.9 * sum(found[:3])
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert trainer.predict(words).predictions.shape == (8, 10)


def test_the_papers_groups_are_the_optimizer(tmp_path, processor, words):
    model = make_model()
    groups = optimizer_groups(model, learning_rate=1e-4)
    wrapped = optimizer_groups(torch.nn.ModuleDict({"module": model}), learning_rate=1e-4)
    assert [(len(group["params"]), group["lr"], group["weight_decay"]) for group in wrapped] == [
        (len(group["params"]), group["lr"], group["weight_decay"]) for group in groups
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)
    before = weights(model)
    options = {"trainer_options": {"optimizers": (optimizer, None)}, "max_steps": 4, "lr_scheduler_type": "linear"}
    trainer = make_trainer(tmp_path, processor, words, model=model, max_grad_norm=20.0, **options)
    trainer.train()
    assert trainer.optimizer.optimizer is optimizer
    assert sorted({group["initial_lr"] for group in optimizer.param_groups}) == pytest.approx([1e-4, 19e-4])
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.2}
    assert [group["lr"] for group in optimizer.param_groups] == [0.0] * len(groups)  # the schedule ran to its end
    after = weights(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert changed <= trained
    assert {name for name in trained if "decoder" in name} <= changed
    frozen = ("text_tower.text_model.embeddings", "text_tower.text_model.encoder.layers.0")
    assert not any(name.startswith(frozen) for name in changed)


@pytest.mark.parametrize("accumulated", [2, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path, processor, accumulated):
    # No randomness and texts of one length: the mean over the batch is the mean over its parts.
    words = render(["one", "two", "six", "ten", "red", "bus", "car", "sun"])
    norms, updated = [], []
    for parts in (1, accumulated):
        model = make_model(decoder_dropout=0.0, num_permutations=1)
        optimizer = torch.optim.SGD(optimizer_groups(model, learning_rate=0.1, weight_decay=0.0))
        trainer = make_trainer(
            tmp_path,
            processor,
            words,
            model=model,
            trainer_options={"optimizers": (optimizer, None)},
            per_device_train_batch_size=8 // parts,
            gradient_accumulation_steps=parts,
            max_steps=1,
            lr_scheduler_type="constant",
            max_grad_norm=1e6,
        )
        trainer.train()
        (log,) = [entry for entry in trainer.state.log_history if "loss" in entry]
        norms.append((log["loss"], log["grad_norm"]))
        updated.append(weights(model))
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    for name, tensor in updated[0].items():
        torch.testing.assert_close(updated[1][name], tensor, rtol=1e-4, atol=1e-6)


def test_the_card_that_the_reader_trainer_writes(processor, words, tmp_path):
    options = {"compute_metrics": word_accuracy(processor)}
    trainer = make_trainer(
        str(tmp_path / "my-reader"),
        processor,
        words,
        trainer_class=ReaderTrainer,
        trainer_options=options,
        predict_with_generate=True,
        learning_rate=0.00125,
    )
    trainer.train()
    accuracy = trainer.evaluate()["eval_word_accuracy"]
    trainer.create_model_card(finetuned_from="openai/clip-vit-base-patch16", dataset_tags=["me/words"], tags="plates")
    card = ModelCard.load(tmp_path / "my-reader" / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "image-to-text")
    assert card.data.tags == ["scene-text-recognition", "ocr", "clip4str", "plates", "generated_from_trainer"]
    assert (card.data.base_model, card.data.datasets) == ("openai/clip-vit-base-patch16", ["me/words"])
    # A figure without its protocol is no entry of an index of results.
    assert (card.data.metrics, card.data.eval_results) == (["accuracy"], None)
    assert f"- Word Accuracy: {accuracy}" in card.text and "- learning_rate: 0.00125" in card.text
    assert "# my-reader" in card.text and "32 x 64 pixels" in card.text
    assert "from scratch" not in card.text and "More information needed" not in card.text

    trainer.create_model_card()
    card = ModelCard.load(tmp_path / "my-reader" / "README.md")
    assert (card.data.base_model, card.data.datasets) == (None, None)


def test_two_processes_count_each_word_once(tmp_path):
    program = tmp_path / "count.py"
    program.write_text(f"""
import sys

sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_trainer import WORDS, ReaderTrainer, make_processor, make_trainer, render

trainer = make_trainer(
    {str(tmp_path / "out")!r},
    make_processor(),
    render(WORDS[:5]),
    trainer_class=ReaderTrainer,
    trainer_options={{"compute_metrics": lambda prediction: {{"words": len(prediction.predictions)}}}},
    predict_with_generate=True,
)
counted = [trainer.evaluate()["eval_words"], trainer.predict(trainer.eval_dataset).metrics["test_words"]]
if trainer.is_world_process_zero():
    print("counted", counted)
trainer.accelerator.end_training()
""")
    assert "counted [5, 5]" in launch(TORCHRUN, program)
