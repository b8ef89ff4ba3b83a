# SPDX-License-Identifier: Apache-2.0
"""scripts/read.py: files in, one line for each out."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from clip4str_hf import (
    Clip4STRConfig,
    Clip4STRForSceneTextRecognition,
    Clip4STRImageProcessor,
    Clip4STRProcessor,
    Clip4STRTokenizer,
    default_checkpoint,
)
from clip4str_hf.reading import find_images, load_reader, read_images, read_items


SCRIPT = Path(__file__).parents[1] / "scripts" / "read.py"
CROPS = Path(__file__).parent / "data" / "words"
WORDS = ["Exit", "Bahnhof", "24h", "Café", "Straße", "OPEN", "taxi"]


@pytest.fixture(scope="module")
def reader():
    # Random weights, spread out so that texts differ from image to image.
    torch.manual_seed(0)
    tower = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Clip4STRConfig(
        text_config=tower | {"projection_dim": 64, "vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513},
        vision_config=tower | {"projection_dim": 64, "image_size": 32, "patch_size": 8},
        image_size=[32, 64],
        max_label_length=6,
        initializer_range=0.3,
        num_frozen_text_layers=-1,
    )
    processor = Clip4STRProcessor(
        Clip4STRImageProcessor(size={"height": 32, "width": 64}), Clip4STRTokenizer(max_label_length=6)
    )
    return Clip4STRForSceneTextRecognition(config).eval(), processor


@pytest.fixture(scope="module")
def checkpoint(reader, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in reader:
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with a folder in it, names with spaces and beyond ASCII, and a file that is no image."""
    folder = tmp_path_factory.mktemp("images of words")
    (folder / "größer").mkdir()
    names = ["b.png", "a.jpg", "mit Leerzeichen.png", "größer/字.png", "größer/Z.BMP", "c.webp", "d.png"]
    font = ImageFont.load_default(size=24)
    for name, word in zip(names, WORDS, strict=True):
        image = Image.new("RGB", (int(font.getlength(word)) + 8, 36), "white")
        ImageDraw.Draw(image).text((4, 2), word, "black", font)
        image.save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def read(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False, timeout=120)


def test_a_folder_is_read_in_order_and_batches_change_nothing(reader, checkpoint, images):
    names = ["a.jpg", "b.png", "c.webp", "d.png", "größer/Z.BMP", "größer/字.png", "mit Leerzeichen.png"]
    files = [str(images / name) for name in names]
    found = read("--model", checkpoint, "--batch-size", 3, images)
    assert (found.returncode, found.stderr) == (0, "")
    rows = [line.split("\t") for line in found.stdout.splitlines()]
    assert [row[0] for row in rows] == files

    alone = list(read_images(files, *reader, batch_size=1))
    assert [row[1] for row in rows] == [reading["text"] for reading in alone]
    assert len({reading["text"] for reading in alone}) > 1
    for (_, _, score), reading in zip(rows, alone, strict=True):
        assert len(score.partition(".")[2]) == 4
        assert float(score) == pytest.approx(reading["score"], abs=1e-4)


def test_what_cannot_be_read_is_named_and_the_rest_is_read(checkpoint, images, tmp_path):
    broken, empty, missing = tmp_path / "broken word.png", tmp_path / "empty", tmp_path / "missing.png"
    broken.write_bytes((images / "b.png").read_bytes()[:60])
    empty.mkdir()
    paths = [images / "d.png", broken, missing, images / "größer/字.png", empty, images / "notes.txt"]
    found = read("--model", checkpoint, *paths, "--json")
    assert found.returncode == 1
    answers = [json.loads(line) for line in found.stdout.splitlines()]
    assert [answer["file"] for answer in answers] == [str(images / "d.png"), str(images / "größer/字.png")]
    for answer in answers:
        assert list(answer) == ["file", "text", "score", "char_scores"]
        assert len(answer["char_scores"]) == len(answer["text"])
        assert 0 < answer["score"] <= 1
    messages = found.stderr.splitlines()
    assert len(messages) == 4
    for path in (broken, missing, empty, images / "notes.txt"):
        assert sum(line.startswith(f"{path}: ") for line in messages) == 1


def test_without_images_or_model_there_is_a_message(images, tmp_path):
    usage = read()
    assert (usage.returncode, usage.stdout) == (2, "")
    assert "usage: read.py" in usage.stderr
    nothing = read(tmp_path)
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert nothing.stderr == f"{tmp_path}: no images in this folder\n"
    no_model = read("--model", tmp_path / "nowhere", images)
    assert (no_model.returncode, no_model.stdout) == (1, "")
    assert "nowhere" in no_model.stderr
    assert "Traceback" not in no_model.stderr


def test_weights_that_were_cut_off_are_a_message(checkpoint, images, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    found = read("--model", tmp_path / "cut", images)
    assert (found.returncode, found.stdout) == (1, "")
    assert "cut cannot be loaded on cpu" in found.stderr and "Traceback" not in found.stderr


def test_weights_that_are_missing_are_a_message(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "part")
    config = json.loads((tmp_path / "part" / "config.json").read_text())
    (tmp_path / "part" / "config.json").write_text(json.dumps(config | {"decoder_layers": 3}))
    with pytest.raises(ValueError, match="part cannot be loaded on cpu: its weights do not fit its .*missing_keys"):
        load_reader(tmp_path / "part")


def test_a_device_map_decides_where_a_reader_is(checkpoint):
    assert load_reader(checkpoint, device_map="meta")[0].device.type == "meta"
    assert load_reader(checkpoint)[0].device.type == "cpu"


def test_a_list_names_the_images(checkpoint, images, tmp_path):
    files = [str(images / name) for name in ("d.png", "größer/字.png", "nothing.png", "mit Leerzeichen.png")]
    (tmp_path / "list.txt").write_text("\n".join(files), encoding="utf-8")
    found = read("--model", checkpoint, "--dtype", "bfloat16", images / "a.jpg", "--files-from", tmp_path / "list.txt")
    names = [line.partition("\t")[0] for line in found.stdout.splitlines()]
    assert names == [str(images / "a.jpg"), *files[:2], files[3]]
    assert found.returncode == 1 and found.stderr.startswith(files[2])
    listed = subprocess.run(
        [sys.executable, str(SCRIPT), "--model", checkpoint, "--files-from", "-"],
        input=os.fsencode(images / "a.jpg") + b"\nna\xffme.webp\n\n",
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    assert listed.returncode == 1 and listed.stdout.startswith(os.fsencode(images / "a.jpg"))
    assert len(listed.stderr.splitlines()) == 1  # an empty line names no file
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + os.fsencode(images / "a.jpg") + b"\r\n")
    marked = read("--model", checkpoint, "--files-from", tmp_path / "list.txt")
    assert marked.stdout.startswith(str(images / "a.jpg")) and marked.returncode == 0
    assert "absent.txt" in read("--model", checkpoint, "--files-from", tmp_path / "absent.txt").stderr


def test_processes_end_with_a_parent_that_is_killed(checkpoint, images):
    command = [sys.executable, SCRIPT, "--model", checkpoint, "--num-workers", "2", "--files-from", "-"]
    with subprocess.Popen(list(map(str, [*command, "--batch-size", "1"])), stdin=subprocess.PIPE) as parent:
        for name in ("a.jpg", "b.png", "c.webp", "d.png"):
            parent.stdin.write(os.fsencode(images / name) + b"\n")
        parent.stdin.flush()  # and more may come
        end = time.monotonic() + 60
        while len(workers := psutil.Process(parent.pid).children()) < 2:
            assert time.monotonic() < end and parent.poll() is None
            time.sleep(0.1)
        parent.kill()
    assert not psutil.wait_procs(workers, timeout=20)[1]


def test_a_folder_is_searched_for_images_only(images):
    assert len(find_images(images)) == len(WORDS)
    assert find_images(images / "notes.txt") == [images / "notes.txt"]
    with pytest.raises(FileNotFoundError, match=r"missing\.png: no such file or folder"):
        find_images(images / "missing.png")


def test_links_of_a_folder_are_followed_once(images, tmp_path):
    (tmp_path / "other").symlink_to(images)
    (tmp_path / "above").symlink_to(tmp_path)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = find_images(tmp_path)
    assert len(found) == len(WORDS) + 1
    assert tmp_path / "gone.png" in found and tmp_path / "other" / "a.jpg" in found  # the reader says what is missing


def test_a_name_with_tabs_and_line_breaks_stays_in_its_column(checkpoint, images, tmp_path):
    name = tmp_path / "a\tb\nc.png"
    name.write_bytes((images / "b.png").read_bytes())
    (line,) = read("--model", checkpoint, name).stdout.splitlines()
    assert line.split("\t")[0] == f"{tmp_path}/a\\tb\\nc.png"
    assert json.loads(read("--model", checkpoint, "--json", tmp_path).stdout)["file"] == str(name)


def test_files_are_opened_no_more_than_two_batches_ahead(reader, images):
    taken = []

    def files():
        for _ in range(20):
            taken.append(images / "b.png")
            yield taken[-1]

    readings = read_images(files(), *reader, batch_size=2)
    next(readings)
    assert len(taken) == 4
    assert len(list(readings)) == 19


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_processes_open_what_threads_open(reader, images, batch_size):
    files = [*find_images(images), images / "notes.txt", images / "missing.png", images / "b.png"]
    expected = list(read_images(files, *reader, batch_size=batch_size))
    assert list(read_images(files, *reader, batch_size=batch_size, num_workers=2)) == expected
    assert sum("error" in reading for reading in expected) == 2
    with pytest.raises(ValueError, match="num_workers=-1 must be at least 0"):
        read_images(files, *reader, num_workers=-1)


def test_a_batch_without_a_readable_file_is_no_end(reader, images):
    files = [images / "notes.txt", images / "missing.png", images / "b.png"]
    readings = list(read_images(files, *reader, batch_size=1))
    assert [list(reading)[1] for reading in readings] == ["error", "error", "text"]
    assert [reading["file"] for reading in readings] == [str(file) for file in files]
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        read_images(files, *reader, batch_size=0)
    with pytest.raises(ValueError, match="files='.*b.png' is one path: give a list"):
        read_images(images / "b.png", *reader)


def test_an_item_holds_one_image(reader):
    image = Image.new("RGB", (40, 20))
    (_, alone), (_, several) = read_items([image, [image, image]], lambda item: item, *reader)
    assert "text" in alone and several == {"error": "2 images instead of one"}


def test_tall_images_are_read_turned_to_either_side(tmp_path):
    words = {"word_2083.webp": "Pharmacy", "word_2166.webp": "SPIRITS", "word_253.webp": "UNIVERSITY"}
    files, texts = [], []
    for name, text in words.items():
        for turn in (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270):
            with Image.open(CROPS / name) as image:
                turned = image if turn is None else image.transpose(turn)
                files.append(tmp_path / f"{len(files)}.png")
                turned.save(files[-1])
            texts.append(text)
    (tmp_path / "broken.png").write_bytes(b"no image")
    files.insert(4, tmp_path / "broken.png")
    shipped = load_reader(default_checkpoint())
    for batch_size in (2, 32):
        found = list(read_images(files, *shipped, batch_size=batch_size, rotate_vertical=True))
        assert "broken.png" in found.pop(4)["error"]
        assert [reading["text"] for reading in found] == texts
        assert found[0]["score"] == pytest.approx(found[1]["score"], abs=1e-3)
    # This reader turns tall images to the left by itself.
    as_they_are = [reading.get("text") for reading in read_images(files, *shipped)]
    assert as_they_are[0] == as_they_are[2] == "Pharmacy"
    shipped[1].image_processor.do_align_long_axis = False
    squashed = [reading.get("text") for reading in read_images(files, *shipped)]
    assert squashed[0] == "Pharmacy" and "Pharmacy" not in squashed[1:3]
