# SPDX-License-Identifier: Apache-2.0
"""scripts/compare_readers.py: the same words for every reader, and what each made of them."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import DATA
from PIL import Image

from clip4str_hf import Clip4STRForSceneTextRecognition, Clip4STRProcessor, default_checkpoint
from clip4str_hf.metrics.protocol import score_words
from clip4str_hf.reading import read_images


SCRIPT = Path(__file__).parents[1] / "scripts" / "compare_readers.py"
WORDS = DATA / "words"

# Peers of another make, which note how they were called and read every word alike.
FAKES = {
    "cv2": "def setNumThreads(threads): assert threads == 1",
    "rapidocr": """
from types import SimpleNamespace

class RapidOCR:
    def __init__(self, params):
        assert params["EngineConfig.onnxruntime.intra_op_num_threads"] == 1

    def __call__(self, image, use_det, use_cls, use_rec):
        assert (use_det, use_cls, use_rec) == (False, False, True)
        red_sum, blue_sum = image[..., 2].sum(), image[..., 0].sum()
        return SimpleNamespace(txts=("red",) if red_sum > blue_sum else None)
""",
    "rapidocr_onnxruntime": """
class RapidOCR:
    def __init__(self, intra_op_num_threads):
        assert intra_op_num_threads == 1

    def __call__(self, image, use_det, use_cls, use_rec):
        assert (use_det, use_cls, use_rec) == (False, False, True)
        return [["Red!", 0.9]], [0.1]
""",
    "easyocr_en_models": "def model_dir(): return 'models'",
    "easyocr": """
class Reader:
    def __init__(self, languages, **options):
        assert languages == ["en"] and not options["download_enabled"] and not options["detector"]
        assert options["model_storage_directory"] == options["user_network_directory"] == "models"

    def recognize(self, image, horizontal_list, free_list):
        height, width, _ = image.shape
        assert (horizontal_list, free_list) == ([[0, width, 0, height]], [])
        return [([], "blue", 0.5)] if width > 30 else []
""",
}
TESSERACT = f"""#!{sys.executable}
import os, sys
from PIL import Image
if sys.argv[1:] == ["--version"]:
    print("tesseract 9.9.9")
else:
    assert sys.argv[1:] == ["stdin", "stdout", "--psm", "8", "-l", "eng"] and os.environ["OMP_THREAD_LIMIT"] == "1"
    print("red" if Image.open(sys.stdin.buffer).getpixel((0, 0)) == (255, 0, 0) else "nothing")
"""


@pytest.fixture(autouse=True)
def same_threads_after():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def script():
    specification = importlib.util.spec_from_file_location("compare_readers", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def no_peers(tmp_path, monkeypatch):
    """An environment in which no peer is installed."""
    for name in FAKES:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


@pytest.fixture
def peers(tmp_path, monkeypatch):
    """An environment in which all peers are installed."""
    for name, code in FAKES.items():
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
        metadata = tmp_path / f"{name}-1.2.3.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n")
    program = tmp_path / "tesseract"
    program.write_text(TESSERACT)
    program.chmod(0o755)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    yield
    for name in FAKES:
        sys.modules.pop(name, None)


@pytest.fixture
def colors(tmp_path):
    """Two sets of words that are their colours; the label of one says nothing, and one image is broken."""
    sets = {"warm": [("red", "red", 40), ("red", "Red", 20)], "cold": [("blue", "blue", 40), ("blue", "!", 40)]}
    for name, words in sets.items():
        folder = tmp_path / name
        folder.mkdir()
        with open(folder / "metadata.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file_name", "text"])
            for row, (color, label, width) in enumerate(words):
                Image.new("RGB", (width, 16), color).save(folder / f"{row}.png")
                table.writerow([f"{row}.png", label])
            if name == "cold":
                (folder / "broken.png").write_bytes(b"no image")
                table.writerow(["broken.png", "blue"])
    return [f"{name}={tmp_path / name}" for name in sets]


def compare(script, monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["compare_readers.py", *map(str, arguments)])
    try:
        status = script.main()
    except SystemExit as error:
        status = error.code
    return status, *capsys.readouterr()


def test_our_readers_are_counted_by_the_protocol_and_peers_that_are_missing_are_named(
    script, no_peers, monkeypatch, capsys, tmp_path
):
    file = tmp_path / "figures.json"
    arguments = ["--data", f"ic15={WORDS}", "--threads", 1, "--batch-size", 5, "--json", file]
    status, table, errors = compare(script, monkeypatch, capsys, *arguments)
    assert (status, errors) == (0, "")

    with open(WORDS / "metadata.csv", newline="") as metadata:
        labels = {row["file_name"]: row["text"] for row in csv.DictReader(metadata)}
    model = Clip4STRForSceneTextRecognition.from_pretrained(default_checkpoint())
    processor = Clip4STRProcessor.from_pretrained(default_checkpoint())
    texts = [word["text"] for word in read_images([WORDS / name for name in labels], model, processor)]
    expected = score_words(texts, labels.values())

    report = json.loads(file.read_text())
    readers = {found["reader"]: found for found in report["readers"]}
    assert list(readers) == [f"clip4str_hf, {variant}" for variant in script.VARIANTS]
    found = readers["clip4str_hf, 1 refinement"]
    counted = {name: expected[name] for name in ("words", "word_accuracy")}
    assert found["sets"] == {"ic15": counted, "all": counted}
    assert all(found["ms_per_word"] > 0 < found["ms_per_word_batched"] for found in report["readers"])
    assert set(report["left_out"]) == {"ppocr-v6", "ppocr-v4", "easyocr", "tesseract"}
    assert (report["threads"], report["batch_size"]) == (1, 5)
    assert torch.get_num_threads() == 1

    lines = table.splitlines()
    assert lines[0] == "| reader | ic15 (12) | all (12) | ms a word | ms a word in batches of 5 |"
    accuracy = f"{100 * expected['word_accuracy']:.1f}"
    assert lines[4].startswith(f"| clip4str_hf, 1 refinement | {accuracy} | {accuracy} | {found['ms_per_word']:.1f} |")
    assert lines[-1] == (
        "- tesseract is left out: there is no program tesseract; apt install tesseract-ocr tesseract-ocr-eng"
    )
    assert any(line.endswith("pip install rapidocr==3.10.0 onnxruntime") for line in lines)


def test_all_readers_get_the_same_words(script, peers, colors, monkeypatch, capsys, tmp_path):
    file = tmp_path / "figures.json"
    arguments = ["--data", *colors, "--readers", *script.PEERS, "--threads", 1, "--json", file]
    status, table, errors = compare(script, monkeypatch, capsys, *arguments)
    assert status == 1
    assert errors.startswith(f"cold, {tmp_path / 'cold' / 'broken.png'}: ")
    assert len(errors.splitlines()) == 1
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[:6]]
    assert rows[0][:4] == ["reader", "warm (2)", "cold (1)", "all (3)"]
    assert [row[:4] for row in rows[2:]] == [
        ["PP-OCRv6 small, rapidocr 1.2.3", "100.0", "0.0", "66.7"],
        ["PP-OCRv4 mobile, rapidocr-onnxruntime 1.2.3", "100.0", "0.0", "66.7"],
        ["EasyOCR english_g2, easyocr 1.2.3", "0.0", "100.0", "33.3"],
        ["Tesseract 9.9.9, a process a word", "100.0", "0.0", "66.7"],
    ]
    assert [row[5] for row in rows[2:]] == ["-"] * 4
    report = json.loads(file.read_text())
    assert [found["sets"]["all"]["words"] for found in report["readers"]] == [3] * 4
    assert report["left_out"] == {}


def test_transparent_and_deep_crops_are_seen_as_our_reader_sees_them(script, tmp_path):
    Image.new("LA", (8, 4), (0, 0)).save(tmp_path / "0.png")
    Image.new("I;16", (8, 4), 0x8000).save(tmp_path / "1.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\n0.png,a\n1.png,b\n")
    words = script.load_crops({"words": str(tmp_path)}, {}, pytest.fail)
    assert [word.image.getpixel((0, 0)) for word in words] == [(255, 255, 255), (128, 128, 128)]


def test_a_reader_that_breaks_down_takes_no_other_with_it(script, peers, colors, monkeypatch, capsys, tmp_path):
    def broken(threads):
        raise RuntimeError("no such model")

    monkeypatch.setitem(script.PEERS, "ppocr-v6", broken)
    monkeypatch.setitem(sys.modules, "easyocr", None)
    arguments = ["--data", colors[0], "--threads", 1, "--model", tmp_path / "nowhere"]
    status, table, errors = compare(script, monkeypatch, capsys, *arguments)
    assert status == 1
    first, second = errors.splitlines()
    assert first.startswith(f"{tmp_path / 'nowhere'}: ValueError: ")
    assert second == "ppocr-v6: RuntimeError: no such model"
    assert [line.split(",")[0] for line in table.splitlines()[2:4]] == ["| PP-OCRv4 mobile", "| Tesseract 9.9.9"]
    assert "- easyocr is left out: " in table


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data", "words"], "each set is NAME=WORDS"),
        (["--data", f"a={WORDS}", f"a={WORDS}"], "each set is NAME=WORDS, with a name of its own"),
        (["--data", f"all={WORDS}"], "a name of its own that is not 'all'"),
        (["--data", f"a={WORDS}", "--threads", "0"], "--threads 0 must be at least 1"),
        (["--data", f"a={WORDS}", "--batch-size", "0"], "--batch-size 0 must be at least 1"),
        (["--data", f"a={WORDS}", "--json", "nowhere/x.json"], "--json nowhere/x.json: there is no such folder"),
        (["--data", f"a={WORDS}", "--readers", "abbyy"], "invalid choice: 'abbyy'"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_read(script, arguments, message, monkeypatch, capsys):
    status, table, errors = compare(script, monkeypatch, capsys, *arguments)
    assert (status, table) == (2, "")
    assert message in errors


def test_it_runs_as_a_program_and_names_a_folder_that_is_missing(tmp_path):
    command = [sys.executable, str(SCRIPT), "--data", f"a={tmp_path / 'missing'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "missing" in done.stderr
    assert "Traceback" not in done.stderr
