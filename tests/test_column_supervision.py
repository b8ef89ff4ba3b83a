# SPDX-License-Identifier: Apache-2.0
"""Column supervision: a letter's label stands at the column it is drawn in, and the loss teaches the image tower."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from clip4str_hf import Clip4STRForSceneTextRecognition, Clip4STRProcessor, default_checkpoint
from clip4str_hf.training.column_supervision import DataCollatorForColumnSupervision, column_loss


@pytest.fixture(scope="module")
def processor():
    return Clip4STRProcessor.from_pretrained(default_checkpoint())


def row(text, positions):
    return {"image": Image.new("RGB", (64, 16)), "text": text, "letter_positions": positions}


def test_labels_stand_at_the_columns_of_the_letters(processor):
    collator = DataCollatorForColumnSupervision(processor, num_columns=8)
    inputs = collator([row("aB", [0.1, 0.6]), row("7", [1.0]), row("word", None)])
    first, second = processor.tokenizer.convert_tokens_to_ids(["a", "B"])
    seven = processor.tokenizer.convert_tokens_to_ids("7")
    assert inputs["column_labels"].tolist() == [
        [first, -100, -100, -100, second, -100, -100, -100],
        [-100] * 7 + [seven],
        [-100] * 8,
    ]
    assert inputs["labels"].shape[0] == inputs["pixel_values"].shape[0] == 3


def test_a_word_that_is_turned_has_no_columns(processor):
    aligning = copy.deepcopy(processor)
    aligning.image_processor.do_align_long_axis = True
    tall = {"image": Image.new("RGB", (16, 64)), "text": "aB", "letter_positions": [0.4, 0.6]}
    columns = DataCollatorForColumnSupervision(aligning, num_columns=8)([tall, row("7", [1.0])])["column_labels"]
    assert (columns[0] == -100).all() and (columns[1] >= 0).any()
    as_array = {**tall, "image": np.asarray(tall["image"])}
    assert (DataCollatorForColumnSupervision(aligning, num_columns=8)([as_array])["column_labels"] == -100).all()


def test_words_of_a_validation_have_no_columns(processor):
    inputs = DataCollatorForColumnSupervision(processor, num_columns=8)(
        [{"image": Image.new("RGB", (9, 9)), "text": "a"}]
    )
    assert "column_labels" not in inputs


def test_loss_is_the_cross_entropy_of_the_mean_of_a_column():
    model = Clip4STRForSceneTextRecognition.from_pretrained(default_checkpoint())
    rows, columns = 4, 16
    features = torch.randn(2, 1 + rows * columns, model.config.hidden_size, requires_grad=True)
    labels = torch.full((2, columns), -100)
    labels[0, 3], labels[1, 15] = 11, 42
    loss = column_loss(model, features, labels)
    expected = []
    for image, column, label in ((0, 3, 11), (1, 15, 42)):
        patches = [features[image, 1 + line * columns + column] for line in range(rows)]
        logits = model.visual_decoder.head(model.visual_decoder.norm(torch.stack(patches).mean(0)))
        expected.append(-logits.log_softmax(-1)[label])
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    loss.backward()
    assert features.grad[0, 1 + 3].abs().sum() > 0 and features.grad[0, 1 + 4].abs().sum() == 0
    assert features.grad[:, 0].abs().sum() == 0  # the class token lies in no column
    assert column_loss(model, features, torch.full((2, columns), -100)) == 0
