# SPDX-License-Identifier: Apache-2.0
"""A saved checkpoint carries its code: others read with it without this package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import pipeline

from clip4str_hf import Clip4STRForSceneTextRecognition, Clip4STRProcessor, default_checkpoint


FILES = sorted(str(path) for path in (Path(__file__).parent / "data" / "words").glob("*.webp"))[:4]

# A package found by path or by an editable install's hook is hidden the same way.
PREAMBLE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "clip4str_hf":
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Hide())
try:
    import clip4str_hf
    raise SystemExit("the package is there")
except ModuleNotFoundError:
    pass
import json
folder, files = sys.argv[1], sys.argv[2:]
"""


def run_without_package(code, folder, cache):
    run = subprocess.run(
        [sys.executable, "-c", PREAMBLE + code, str(folder), *FILES],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_MODULES_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "my-reader"
    Clip4STRForSceneTextRecognition.from_pretrained(default_checkpoint()).save_pretrained(folder)
    Clip4STRProcessor.from_pretrained(default_checkpoint()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected():
    return [reading[0]["generated_text"] for reading in pipeline("image-to-text", model=default_checkpoint())(FILES)]


def test_the_pipeline_reads_the_same_without_the_package(folder, expected, tmp_path):
    code = """
from transformers import pipeline
reader = pipeline("image-to-text", model=folder, trust_remote_code=True)
print(json.dumps([reading[0]["generated_text"] for reading in reader(files, batch_size=2)]))
"""
    assert run_without_package(code, folder, tmp_path) == expected


@pytest.mark.parametrize("auto_class", ["AutoModel", "AutoModelForImageTextToText", "AutoModelForTextRecognition"])
def test_the_auto_classes_read_the_same_without_the_package(folder, expected, tmp_path, auto_class):
    code = f"""
from transformers import {auto_class}, AutoProcessor, AutoTokenizer
model = {auto_class}.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
inputs = processor(images=files, return_tensors="pt")
texts = tokenizer.batch_decode(model.generate(**inputs))
assert texts == [word["text"] for word in processor.post_process_text_recognition(model(**inputs))]
print(json.dumps(texts))
"""
    assert run_without_package(code, folder, tmp_path) == expected


def test_what_was_loaded_as_remote_code_saves_a_folder_that_is_whole_again(folder, expected, tmp_path):
    code = """
from transformers import AutoModel, AutoProcessor
copy = folder + "-copy"
AutoModel.from_pretrained(folder, trust_remote_code=True).save_pretrained(copy)
AutoProcessor.from_pretrained(folder, trust_remote_code=True).save_pretrained(copy)
from transformers import pipeline
reader = pipeline("image-to-text", model=copy, trust_remote_code=True)
print(json.dumps([reading[0]["generated_text"] for reading in reader(files)]))
"""
    assert run_without_package(code, folder, tmp_path) == expected
    copied = {path.name: path.read_bytes() for path in Path(f"{folder}-copy").glob("*.py")}
    assert copied == {path.name: path.read_bytes() for path in folder.glob("*.py")}


def test_with_the_package_no_trust_is_asked_for(folder, expected):
    assert [
        reading[0]["generated_text"] for reading in pipeline("image-to-text", model=str(folder))(FILES)
    ] == expected
    reader = pipeline("image-to-text", model=str(folder), trust_remote_code=True)
    assert [reading[0]["generated_text"] for reading in reader(FILES)] == expected


def test_without_the_package_trust_is_needed(folder, tmp_path):
    code = """
from transformers import pipeline
try:
    pipeline("image-to-text", model=folder, trust_remote_code=False)
except ValueError as error:
    print(json.dumps("trust_remote_code" in str(error)))
"""
    assert run_without_package(code, folder, tmp_path) is True
