# SPDX-License-Identifier: Apache-2.0
"""Augmentation: the operations of the paper, seeded, on any image."""

import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from conftest import DATA
from datasets import load_dataset
from PIL import Image, ImageChops
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from clip4str_hf.data import augmentation as module
from clip4str_hf.data.augmentation import FILL_COLOR, OPERATIONS, TextAugmentation


WITHOUT_MAGNITUDE = {"AutoContrast", "Equalize", "Invert"}
PHOTOMETRIC = WITHOUT_MAGNITUDE | {"Posterize", "Solarize", "Color", "Contrast", "Brightness"}
BLUR_AND_NOISE = {"GaussianBlur", "PoissonNoise"}
GEOMETRIC = {"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"}


@pytest.fixture(scope="module")
def crops():
    return [Image.open(file).convert("RGB") for file in sorted((DATA / "words").glob("*.webp"))]


@pytest.fixture
def words():
    return load_dataset("imagefolder", data_dir=str(DATA / "words"), split="train")


def same(image, other):
    return image.size == other.size and ImageChops.difference(image, other).getbbox() is None


def apply(name, image, level, seed=0):
    return OPERATIONS[name](image, level, np.random.default_rng(seed))


def test_the_operations_are_those_of_the_method():
    assert set(OPERATIONS) == PHOTOMETRIC | BLUR_AND_NOISE | GEOMETRIC


@pytest.mark.parametrize("level", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_changes_a_crop_and_keeps_its_mode(name, level, crops):
    before = crops[2].copy()
    after = apply(name, before, level)
    assert after.mode == "RGB"
    assert not same(after, before)
    assert len(after.getcolors(after.width * after.height)) > 1
    assert same(before, crops[2])


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - WITHOUT_MAGNITUDE - {"Posterize"}))
def test_at_magnitude_0_nothing_happens(name, crops):
    assert same(apply(name, crops[0], 0.0), crops[0])


@pytest.mark.parametrize(
    "name, level, size",
    [
        ("Rotate", 1.0, (103, 78)),  # 100 cos 30 + 32 sin 30, 100 sin 30 + 32 cos 30
        ("Rotate", 0.5, (105, 57)),
        ("ShearX", 0.5, (114, 32)),  # 0.45 * 31 wider
        ("ShearY", 0.5, (100, 42)),  # 0.1 * 99 higher
        ("TranslateX", 0.5, (100, 32)),
        ("TranslateY", 0.5, (100, 32)),
        ("GaussianBlur", 0.5, (100, 32)),
        ("PoissonNoise", 0.5, (100, 32)),
    ],
)
def test_rotation_and_shear_make_room(name, level, size):
    image = Image.new("RGB", (100, 32), "white")
    for seed in range(4):
        assert apply(name, image, level, seed).size == pytest.approx(size, abs=2)


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY"])
def test_rotation_and_shear_keep_the_corners_of_a_word(name):
    # Nothing but the fill colour, its blend with white and the white image: as much white as before.
    image = Image.new("RGB", (60, 30), "white")
    for seed in range(8):
        pixels = np.asarray(apply(name, image, 0.5, seed), dtype=float)[..., 0]
        covered = (pixels - FILL_COLOR[0]) / (255 - FILL_COLOR[0])
        assert covered.sum() == pytest.approx(60 * 30, rel=0.05)


@pytest.mark.parametrize("name, axis, pixels", [("TranslateX", 1, 10), ("TranslateY", 0, 15)])
def test_translation_moves_either_way(name, axis, pixels):
    image = Image.new("RGB", (200, 100), "black")
    image.paste("white", (99, 49, 102, 52))
    moves = set()
    for seed in range(8):
        where = np.argwhere(np.asarray(apply(name, image, 0.5, seed).convert("L")) > 200).mean(axis=0)
        moves.add(round(where[axis] - (50, 100)[axis]))
        assert where[1 - axis] == pytest.approx((50, 100)[1 - axis])
    assert moves == {-pixels, pixels}


def test_noise_is_grey_and_goes_both_ways():
    grey = Image.new("RGB", (100, 100), (100, 100, 100))
    change = np.asarray(apply("PoissonNoise", grey, 0.5), dtype=int) - 100
    assert (change == change[..., :1]).all()
    assert abs(change.mean()) < 1
    assert abs(change).mean() == pytest.approx(20, abs=1)


def test_a_seed_is_a_choice(crops):
    first = [TextAugmentation(seed=1)(crop) for crop in crops]
    again = [TextAugmentation(seed=1)(crop) for crop in reversed(crops)][::-1]
    other = [TextAugmentation(seed=2)(crop) for crop in crops]
    assert all(map(same, first, again))
    assert not all(map(same, first, other))


def test_a_generator_decides_alone(crops):
    first, second = TextAugmentation(seed=1), TextAugmentation(seed=2)
    second.epoch = 5
    for index, crop in enumerate(crops):
        one, two = (augment(crop, np.random.default_rng((0, index))) for augment in (first, second))
        assert same(one, two)
    rows = [first(crops[0], np.random.default_rng((0, index))) for index in range(8)]
    assert not all(same(rows[0], row) for row in rows)


def test_three_different_operations_are_drawn_and_half_of_them_applied(monkeypatch):
    applied = []

    def record(name):
        def operation(image, level, generator):
            assert level == 0.7
            applied.append(name)
            return image

        return operation

    monkeypatch.setattr(module, "OPERATIONS", {name: record(name) for name in OPERATIONS})
    augment, image, numbers, seen = TextAugmentation(magnitude=7), Image.new("RGB", (8, 8)), [], set()
    for seed in range(400):
        applied.clear()
        augment(image, np.random.default_rng(seed))
        assert len(set(applied)) == len(applied) <= 3
        numbers.append(len(applied))
        seen |= set(applied)
    assert np.mean(numbers) == pytest.approx(1.5, abs=0.15)
    assert seen == set(OPERATIONS)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"magnitude": -1}, r"magnitude=-1 must lie in 0 to 10"),
        ({"magnitude": 10.5}, r"magnitude=10\.5 must lie in 0 to 10"),
        ({"num_operations": 16}, r"num_operations=16 must lie in 0 to 15"),
        ({"num_operations": -1}, r"num_operations=-1 must lie in 0 to 15"),
        ({"seed": -1}, r"seed=-1 must not be negative"),
    ],
)
def test_what_is_out_of_bounds_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TextAugmentation(**options)


def test_no_operations_leave_the_image(crops):
    assert same(TextAugmentation(num_operations=0)(crops[0]), crops[0])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_an_image_of_any_mode_becomes_rgb(mode, crops):
    image = crops[0].convert("L").convert("I;16") if mode == "I;16" else crops[0].convert(mode)
    for seed in range(8):
        assert TextAugmentation(seed=seed)(image).mode == "RGB"


def test_transparency_is_laid_on_white():
    image = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    assert TextAugmentation(num_operations=0)(image).getcolors() == [(200, (255, 255, 255))]


@pytest.mark.parametrize("magnitude", [0, 5, 10])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 3), (1, 40), (300, 1)])
def test_tiny_and_thin_images_pass_through_all_operations(size, magnitude, monkeypatch):
    monkeypatch.setattr(module, "PROBABILITY", 1)
    augment = TextAugmentation(num_operations=len(OPERATIONS), magnitude=magnitude)
    for seed in range(10):
        augmented = augment(Image.new("RGB", size, (200, 30, 60)), np.random.default_rng(seed))
        assert augmented.mode == "RGB"
        assert augmented.width >= 1 <= augmented.height


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="0 x 3 pixels"):
        TextAugmentation()(Image.new("RGB", (0, 3)))


def test_paths_are_opened_and_what_is_no_image_is_named(tmp_path):
    path, image = tmp_path / "word.png", Image.effect_noise((40, 20), 60)
    image.save(path)
    assert same(TextAugmentation()(str(path)), TextAugmentation()(image))
    with pytest.raises(ValueError, match="absent.png.* cannot be read"):
        TextAugmentation()(tmp_path / "absent.png")
    for wrong in ({"bytes": b"", "path": None}, None):
        with pytest.raises(TypeError, match=f"is of type {type(wrong).__name__}: accepted are paths"):
            TextAugmentation()(wrong)


def test_a_dataset_is_augmented_when_it_is_read(words):
    plain = words[:]
    augmentation = TextAugmentation(num_operations=15, seed=3)
    words.set_transform(augmentation.transform)
    rows = words[:]
    assert rows["text"] == plain["text"]
    for augmented, image in zip(rows["image"], plain["image"]):
        assert same(augmented, augmentation(image))
        assert not same(augmented, image.convert("RGB"))
    renamed = words.rename_column("image", "crop").with_transform(TextAugmentation(image_column="crop").transform)
    assert renamed[0]["crop"].mode == "RGB"
    with pytest.raises(ValueError, match=r"No column 'image' among \['crop', 'text'\]"):
        words.rename_column("image", "crop").with_transform(augmentation.transform)[0]


def test_tall_images_are_turned_before_they_are_augmented(crops):
    tall = crops[0].convert("RGB").resize((20, 40))
    turned = TextAugmentation(seed=3, do_align_long_axis=True)
    assert same(turned(tall, np.random.default_rng(0)), turned(tall.transpose(2), np.random.default_rng(0)))
    assert not same(turned(tall), TextAugmentation(seed=3)(tall))


def test_epochs_are_counted_where_a_dataset_has_copied_its_transform(words):
    augmentation = TextAugmentation(num_operations=15, magnitude=10)
    renamed = words.with_transform(augmentation.transform).rename_column("text", "label")
    before = images_of(renamed)
    augmentation.epoch = 1
    assert images_of(renamed) != before


def images_of(rows):
    return [row["image"].tobytes() for row in rows]


def test_workers_and_batches_change_nothing(words):
    words.set_transform(TextAugmentation(seed=3).transform)
    read = [
        [image for batch in DataLoader(words, size, num_workers=workers, collate_fn=images_of) for image in batch]
        for size, workers in ((1, 0), (5, 2))
    ]
    assert read[0] == read[1]


def train(words, seed, **arguments):
    """The images of each step of two epochs of `Trainer`, rows in the same order."""
    steps = []

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, pixels):
            steps.append(sorted(pixels.tolist()))
            return {"loss": self.weight * 0}

    def collate(rows):
        return {"pixels": torch.tensor([zlib.crc32(image) for image in images_of(rows)])}

    augmentation = TextAugmentation(seed=seed)
    words = words.with_transform(augmentation.transform)
    Trainer(
        Model(),
        TrainingArguments(
            num_train_epochs=2,
            per_device_train_batch_size=12,
            remove_unused_columns=False,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            **arguments,
        ),
        collate,
        words,
        callbacks=[augmentation],
    ).train()
    return steps


def test_trainer_sees_other_images_in_each_epoch_and_the_same_in_each_run(words, tmp_path):
    first, second = train(words, 0, output_dir=tmp_path)
    assert first != second
    assert train(words, 0, output_dir=tmp_path, dataloader_num_workers=2) == [first, second]
    assert train(words, 1, output_dir=tmp_path) != [first, second]


def test_torchvision_is_not_needed():
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from PIL import Image\n"
        "from clip4str_hf.data.augmentation import TextAugmentation\n"
        "print(TextAugmentation()(Image.new('L', (9, 5))).mode)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "RGB\n"), done.stderr
