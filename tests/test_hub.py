# SPDX-License-Identifier: Apache-2.0
"""What is pushed to the Hub, others load without this package: over HTTP, by the Hub's own client."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import TOKEN, running_hub
from huggingface_hub import ModelCard
from transformers import pipeline

from clip4str_hf import Clip4STRForSceneTextRecognition, default_checkpoint, sharing
from clip4str_hf.sharing import complete_copy, list_files, problems_of_card, push


ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "push_checkpoint.py"
CARD = ROOT / "model_cards" / "clip4str-small.md"
WORDS = Path(__file__).with_name("data") / "words"
FILES = sorted(str(path) for path in WORDS.glob("*.webp"))[:2]
CODE = {
    f"{name}_clip4str.py"
    for name in (
        "captioning",
        "card",
        "configuration",
        "generation",
        "image_processing",
        "modeling",
        "pipeline",
        "processing",
        "tokenization",
    )
}
PROCESSOR = {"processor_config.json", "tokenizer_config.json", "vocab.json"}
MODEL = {"config.json", "generation_config.json", "model.safetensors"}
OWNERS_CARD = b"---\nlicense: mit\ntags: [plates]\n---\n# Plates\n\nMine.\n"
HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "clip4str_hf":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with running_hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture(scope="module")
def expected():
    return [reading[0]["generated_text"] for reading in pipeline("image-to-text", model=default_checkpoint())(FILES)]


def python(hub, home, code, *arguments):
    """What a fresh interpreter, to which `hub` is the Hub, prints as JSON in its last line."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, encoding="utf-8", env=environment
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory):
    """The repositories that the parts of the shipped reader, and trainers of it, have pushed."""
    code = """
import sys
from huggingface_hub import HfApi
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, pipeline
from clip4str_hf import *
from clip4str_hf.data.words import clean_words, load_words
from clip4str_hf.metrics.protocol import word_metrics
from clip4str_hf.training.reader_trainer import ReaderTrainer

model = Clip4STRForSceneTextRecognition.from_pretrained(default_checkpoint())
processor = Clip4STRProcessor.from_pretrained(default_checkpoint())
processor.push_to_hub("me/processor-first")
model.push_to_hub("me/processor-first", tags=["signs"])
model.push_to_hub("me/model-first")
processor.push_to_hub("me/model-first")
model.push_to_hub("me/model-alone")
pipeline("image-to-text", model=model, processor=processor).push_to_hub("me/pipeline")

processor.push_to_hub("me/owned")
HfApi().upload_file(path_or_fileobj=CARD, path_in_repo="README.md", repo_id="me/owned", commit_message="My card")
model.push_to_hub("me/owned")
processor.push_to_hub("me/owned")

words, _ = clean_words(load_words(WORDS), processor)
for trainer_class, name in ((Seq2SeqTrainer, "seq2seq"), (ReaderTrainer, "trained")):
    arguments = Seq2SeqTrainingArguments(
        f"{sys.argv[1]}/{name}", push_to_hub=True, hub_model_id=f"me/{name}", hub_private_repo=True, max_steps=1,
        learning_rate=1e-9, predict_with_generate=True, remove_unused_columns=False, use_cpu=True, report_to="none",
    )
    trainer = trainer_class(
        model, arguments, DataCollatorForTextRecognition(processor), words, words, processor,
        compute_metrics=word_metrics(processor),
    )
    trainer.train()
    trainer.evaluate()
    trainer.push_to_hub()
print("null")
"""
    constants = f"WORDS, CARD = {str(WORDS)!r}, {OWNERS_CARD!r}"
    folder = tmp_path_factory.mktemp("pushing")
    python(hub, folder / "home", constants + code, folder)
    return hub


READ = """
import json, os, sys
from transformers import pipeline

def read(name):
    reader = pipeline("image-to-text", model=name, trust_remote_code=True)
    return [reading[0]["generated_text"] for reading in reader(json.loads(sys.argv[1]))]
"""


def test_a_stranger_reads_with_what_was_pushed_and_pushes_it_again(pushed, expected, tmp_path):
    names = ["me/processor-first", "me/model-first", "me/trained", "me/seq2seq"]
    code = """
from transformers import AutoModel, AutoProcessor
readings = [read(name) for name in json.loads(sys.argv[2])]
AutoModel.from_pretrained("me/model-first", trust_remote_code=True).push_to_hub("me/again")
AutoProcessor.from_pretrained("me/model-first", trust_remote_code=True).push_to_hub("me/again")
del os.environ["HF_TOKEN"]
readings.append(read("me/again"))
try:
    read("me/model-alone")
except OSError as error:
    print(json.dumps([readings, str(error)]))
"""
    arguments = (json.dumps(FILES), json.dumps(names))
    readings, error = python(pushed, tmp_path / "home", HIDE + READ + code, *arguments)
    assert readings == [expected] * (len(names) + 1)
    assert error.startswith("The processor of me/model-alone cannot be loaded, save or push it there too")

    first, again = pushed.files("me/model-first"), pushed.files("me/again")
    assert "[me/model-first](" in again.pop("README.md").decode()
    assert {name for name in again if again[name] != first[name]} <= {"processor_config.json", "tokenizer_config.json"}
    # Nothing of it leads back to the repository it is from.
    assert not any(b"me/model-first" in content for content in again.values())


def test_model_and_processor_are_loaded_from_the_same_revision(pushed, tmp_path):
    _, model, both = (commit.sha for commit in pushed.repository("me/model-first").branches["main"])
    code = """
import json, sys
from functools import partial
from transformers import pipeline
from clip4str_hf.reading import load_reader
model, processor = load_reader("me/model-first", revision=sys.argv[2])
errors = []
for load in (load_reader, partial(pipeline, "image-to-text")):
    try:
        load("me/model-first", revision=sys.argv[1])
    except (OSError, ValueError) as error:
        errors.append(str(error))
pipeline("image-to-text", "me/model-first", revision=sys.argv[2])
print(json.dumps(errors))
"""
    of_reader, of_pipeline = python(pushed, tmp_path / "home", code, model, both)
    assert of_reader.startswith("me/model-first cannot be loaded on cpu")
    assert of_pipeline.startswith("The processor of me/model-first cannot be loaded, save or push it there too")


def test_what_is_pushed_is_whole_in_any_order(pushed):
    files = {name: pushed.files(f"me/{name}") for name in ("processor-first", "model-first", "pipeline", "trained")}
    whole = {".gitattributes", "README.md"} | CODE | PROCESSOR | MODEL
    assert set(files["processor-first"]) == set(files["model-first"]) == set(files["pipeline"]) == whole
    assert set(files["trained"]) == whole | {"training_args.bin"}
    assert set(pushed.files("me/model-alone")) == whole - PROCESSOR
    messages = pushed.messages("me/processor-first")
    assert messages == ["initial commit", "Upload processor", "Upload Clip4STRForSceneTextRecognition"]
    assert pushed.repository("me/trained").private and not pushed.repository("me/model-first").private
    for content in files.values():
        config = json.loads(content["config.json"])
        assert config["custom_pipelines"]["image-to-text"]["impl"] == "pipeline_clip4str.Clip4STRPipeline"
        assert {f"{entry.partition('.')[0]}.py" for entry in config["auto_map"].values()} <= CODE
        assert "refine_iters" in json.loads(content["generation_config.json"])
        assert "image_mean" in json.loads(content["processor_config.json"])["image_processor"]


@pytest.mark.parametrize("name", ["processor-first", "model-first", "model-alone", "pipeline", "trained"])
def test_a_pushed_model_has_a_card_that_tells_what_it_is(pushed, name):
    card = ModelCard(pushed.files(f"me/{name}")["README.md"].decode())
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "image-to-text")
    assert {"scene-text-recognition", "ocr", "clip4str"} <= set(card.data.tags)
    assert "signs" in card.data.tags or name != "processor-first"
    assert f'model="me/{name}", trust_remote_code=True' in card.text
    parameters = Clip4STRForSceneTextRecognition.from_pretrained(default_checkpoint()).num_parameters()
    assert f"{parameters:,}" in card.text and "up to 25 of the 94 characters" in card.text
    # What only its maker knows is asked for, and the reader is not published by the script before it is told.
    unknown = {"Training data", "Licence"} | (set() if name == "trained" else {"Results", "Training procedure"})
    assert set(problems_of_card(card)) == {"license is missing"} | {f"{part}: to be filled in" for part in unknown}


def test_the_card_of_a_repository_is_its_owners(pushed):
    assert pushed.messages("me/owned")[1:3] == ["Upload processor", "My card"]
    assert "README.md" not in pushed.repository("me/owned").branches["main"][1].files
    assert set(pushed.files("me/owned")) > MODEL
    card = ModelCard(pushed.files("me/owned")["README.md"].decode())
    assert card.text == "# Plates\n\nMine.\n"
    assert (card.data.license, card.data.pipeline_tag) == ("mit", "image-to-text")
    assert card.data.tags[:4] == ["plates", "scene-text-recognition", "ocr", "clip4str"]


def use(monkeypatch, hub):
    """Makes `hub` the Hub of this process."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


# Runs the script once for each list of arguments: its imports take longer than its work.
RUNS = """
import contextlib, io, json, runpy, sys

def run(arguments):
    sys.argv = [SCRIPT, *arguments]
    streams = {"stdout": io.StringIO(), "stderr": io.StringIO()}
    code = 0
    with contextlib.redirect_stdout(streams["stdout"]), contextlib.redirect_stderr(streams["stderr"]):
        try:
            runpy.run_path(SCRIPT, run_name="__main__")
        except SystemExit as end:
            code = 1 if isinstance(end.code, str) else end.code
            print(end.code, file=sys.stderr)
    return {"code": code, **{name: stream.getvalue() for name, stream in streams.items()}}

SCRIPT, *runs = json.loads(sys.argv[1])
print(json.dumps([run(arguments) for arguments in runs]))
"""


def test_the_script_publishes_the_shipped_reader(hub, expected, tmp_path):
    runs = [
        ["me/shipped"],
        ["me/shipped", "--card", ROOT / "model_cards" / "fine-tuned.md"],
        ["no-owner", "--card", CARD],
        ["me/tried", "--card", CARD, "--dry-run"],
        [
            "me/shipped",
            "--card",
            CARD,
            "--image",
            FILES[0],
            "--private",
            "--revision",
            "v1",
            "--commit-message",
            "One",
        ],
    ]
    hub.refused = "tried"
    arguments = json.dumps([str(SCRIPT), *([str(part) for part in run] for run in runs)])
    results = [SimpleNamespace(**result) for result in python(hub, tmp_path, RUNS, arguments)]
    hub.refused = None
    no_card, form, no_owner, tried, pushed = results
    assert [result.code for result in results] == [1, 1, 2, 0, 0], results
    assert "README.md" in no_card.stderr and "--card" in no_card.stderr
    assert "license is missing\n  Results: to be filled in\n  Training data: to be filled in" in form.stderr
    assert "no-owner must be OWNER/NAME" in no_owner.stderr
    assert "reads 'Exit', confidence" in tried.stdout and "nothing was uploaded" in tried.stdout
    assert f"reads {expected[0]!r}" in pushed.stdout and f"{hub.url}/me/shipped/commit/" in pushed.stdout
    # What was shown is what was uploaded, in one commit.
    files = hub.files("me/shipped", "v1")
    for result in (tried, pushed):
        sizes = dict(reversed(line.split()) for line in result.stdout.splitlines() if line.endswith(tuple(files)))
        assert sizes == {name: f"{len(content):,}" for name, content in files.items() if content}
    assert hub.messages("me/shipped", "v1") == ["initial commit", "One"]
    assert set(hub.files("me/shipped", "main")) == {".gitattributes"}
    assert hub.repository("me/shipped").private and "me/tried" not in hub.repositories
    assert set(files) == {".gitattributes", "README.md"} | CODE | PROCESSOR | MODEL


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    copy = tmp_path_factory.mktemp("copy")
    complete_copy(default_checkpoint(), copy, "me/copy", CARD)
    return copy


@pytest.mark.parametrize("refused", ["me/refused/preupload", "me/refused.git/info/lfs", "/lfs/", "me/refused/commit"])
def test_what_is_refused_half_way_leaves_nothing_behind(hub, copy, refused, monkeypatch):
    use(monkeypatch, hub)
    for stored in hub.folder.glob("?" * 64):
        stored.unlink()  # what is there is not uploaded again
    monkeypatch.setattr(hub, "refused", refused)
    with pytest.raises(OSError, match="This is refused"):
        push(copy, "me/refused")
    assert hub.messages("me/refused") == ["initial commit"]


def test_a_push_that_should_be_private_does_not_go_to_a_public_repository(hub, copy, monkeypatch):
    use(monkeypatch, hub)
    push(copy, "me/public")
    with pytest.raises(ValueError, match="me/public is there already and public"):
        push(copy, "me/public", private=True)
    assert len(hub.messages("me/public")) == 2


def test_without_a_token_nothing_is_pushed(hub, copy, monkeypatch):
    use(monkeypatch, hub)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(OSError, match="401"):
        push(copy, "me/not-mine")
    assert "me/not-mine" not in hub.repositories


def test_an_interpreter_that_dies_without_a_word_is_a_message(copy, monkeypatch):
    monkeypatch.setattr(sharing.subprocess, "run", lambda *a, **kw: subprocess.CompletedProcess(a, -9, "", ""))
    with pytest.raises(ValueError, match="cannot be read with it: the interpreter ended with status -9"):
        sharing.read_as_stranger(copy, "word.png")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"decoder_layers": 3}, "weights do not fit .*missing_keys"),
        ({"max_label_length": 10}, "cannot be loaded .*mismatched"),
        ({"charset": "ab"}, "cannot be loaded"),
    ],
)
def test_a_copy_is_made_of_a_whole_reader_only(tmp_path, copy, change, message):
    for file in list_files(copy):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((copy / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message):
        complete_copy(tmp_path, tmp_path / "copy", "me/broken", CARD)
    assert not (tmp_path / "copy").exists()
