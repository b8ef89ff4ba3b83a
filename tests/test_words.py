# SPDX-License-Identifier: Apache-2.0
"""Words from LMDB, parquet, folders of images and saved data sets: loaded, cleaned up, saved."""

import io
import json
import os
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import datasets
import lmdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, IterableDataset, Value, load_dataset, load_from_disk
from datasets import Image as ImageColumn
from datasets.distributed import split_dataset_by_node
from PIL import Image
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from clip4str_hf import (
    Clip4STRConfig,
    Clip4STRForSceneTextRecognition,
    Clip4STRImageProcessor,
    Clip4STRProcessor,
    Clip4STRTokenizer,
    DataCollatorForTextRecognition,
)
from clip4str_hf.data import lmdb_words, saving
from clip4str_hf.data import words as words_module
from clip4str_hf.data.lmdb_words import count_words, find_lmdbs
from clip4str_hf.data.saving import save_words
from clip4str_hf.data.words import CleaningReport, clean_words, load_words


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def picture(number: int) -> bytes:
    """An image file that no other number has."""
    file = io.BytesIO()
    Image.new("RGB", (12, 8), (number % 256, number // 256, 0)).save(file, "PNG")
    return file.getvalue()


def write_entries(folder, entries: dict[str, bytes]):
    folder.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(folder), map_size=1 << 28) as environment, environment.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key.encode(), value)
    return folder


def make_lmdb(folder, texts, first=0, padding=b""):
    entries = {"num-samples": b"%d" % len(texts)}
    for index, text in enumerate(texts, 1):
        entries |= {f"image-{index:09d}": picture(first + index) + padding, f"label-{index:09d}": text.encode()}
    return write_entries(folder, entries)


def read_entries(folder) -> dict[bytes, bytes]:
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return dict(transaction.cursor())


def make_folder(folder, table: str, *names: str):
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(picture(index))
    (folder / "metadata.csv").write_text(table, encoding="utf-8")
    return folder


def texts_of(words) -> list[str]:
    return [row["text"] for row in words]


def texts_of_batch(rows) -> list[str]:
    return [row["text"] for row in rows]


@pytest.fixture
def root(tmp_path):
    """Folders as PARSeq lays them out: 350 words in three of them, and a fourth without words."""
    root = tmp_path / "real"
    make_lmdb(root / "COCOv2.0" / "train", [f"c{i}" for i in range(150)], 1000)
    make_lmdb(root / "ArT" / "train", [f"a{i}" for i in range(129)])
    make_lmdb(root / "ArT" / "val", [f"v{i}" for i in range(71)], 2000)
    make_lmdb(root / "Uber", [])
    return root


@pytest.fixture
def damaged(tmp_path):
    """Twelve words are stated. Three are whole, and of those one has a label that is not of ten digits."""
    entries = {"num-samples": b"12"}
    for index in range(1, 12):
        entries |= {f"image-{index:09d}": picture(index), f"label-{index:09d}": b"%d" % index}
    del entries["image-000000002"], entries["label-000000005"]
    return write_entries(
        tmp_path / "damaged",
        entries
        | {
            "image-000000003": b"",
            "image-000000004": b"no image at all",
            "image-000000006": picture(6)[:50],
            "label-000000007": b"",
            "label-000000008": b"\xff\xfe",
            "label-000000009": "12 3４ a5".encode(),
            "label-000000010": b"12345678901",
        },
    )


REASONS = {
    "image missing": ["image-000000002 '2'"],
    "image empty": ["image-000000003 '3'"],
    "image unreadable": ["image-000000004 '4'", "image-000000006 '6'"],
    "label missing or no UTF-8": ["image-000000005 None", "image-000000008 None", "image-000000012 None"],
    "label empty": ["image-000000007 ''"],
    "label longer than 10 characters": ["image-000000010 '12345678901'"],
}


def digits():
    return Clip4STRTokenizer(charset="0123456789", max_label_length=10)


# LMDB folders


def test_every_lmdb_below_a_root_is_read_in_sorted_order(root):
    folders = [root / name for name in ("ArT/train", "ArT/val", "COCOv2.0/train", "Uber")]
    assert find_lmdbs(root) == folders
    assert [count_words(folder) for folder in folders] == [129, 71, 150, 0]
    assert find_lmdbs(root / "ArT" / "val") == [root / "ArT" / "val"]

    words, stream = load_words(root), load_words(root, streaming=True)
    assert texts_of(words) == [
        f"{name}{i}" for name, count in (("a", 129), ("v", 71), ("c", 150)) for i in range(count)
    ]
    assert isinstance(stream, IterableDataset)
    assert words.features == stream.features
    assert list(stream) == list(words)
    assert words[0]["image"] == {"bytes": picture(1), "path": "real/ArT/train/data.mdb/image-000000001"}
    assert words[349]["image"]["path"] == "real/COCOv2.0/train/data.mdb/image-000000150"
    one = load_words(root / "ArT" / "val", streaming=True)
    assert next(iter(one))["image"]["path"] == "val/data.mdb/image-000000001"


@pytest.mark.parametrize("options", [{}, {"num_proc": 2}, {"streaming": True}])
def test_damaged_entries_are_counted_named_and_left_out(damaged, options):
    words = load_words(damaged, streaming=options.pop("streaming", False))
    words, report = clean_words(words, digits(), **options)
    kept = list(words)
    assert [row["text"] for row in kept] == ["1", "12345", "11"]
    assert [row["image"].getpixel((0, 0)) for row in kept] == [(1, 0, 0), (9, 0, 0), (11, 0, 0)]
    prefix = "damaged/data.mdb/"
    assert report.names == {reason: [prefix + name for name in names] for reason, names in REASONS.items()}
    assert report.dropped == {reason: len(names) for reason, names in REASONS.items()}
    assert (report.num_words, report.num_kept, report.num_changed) == (12, 3, 1)
    lines = str(report).splitlines()
    changed = f"{prefix}image-000000009 '12 3４ a5' as '12345'"
    assert report.changes == [changed]
    assert lines[0] == f"3 of 12 words kept, 1 of them with a changed label: {changed}"
    assert f"1 dropped, label empty: {prefix}image-000000007 ''" in lines
    # What is left goes into a model as it is.
    processor = Clip4STRProcessor(Clip4STRImageProcessor(size={"height": 8, "width": 16}), digits())
    inputs = DataCollatorForTextRecognition(processor)(kept)
    assert processor.batch_decode(inputs["labels"]) == ["1", "12345", "11"]


def test_entries_on_damaged_pages_are_counted_and_the_rest_is_read(tmp_path):
    folder = make_lmdb(tmp_path / "words", [f"w{i}" for i in range(400)])
    with lmdb.open(str(folder), readonly=True, lock=False) as environment:
        page = environment.stat()["psize"]
        assert environment.stat()["leaf_pages"] > 5
    with open(folder / "data.mdb", "r+b") as file:
        file.seek(9 * page)
        file.write(bytes(page))
    words, report = clean_words(load_words(folder, streaming=True))
    kept = texts_of(words)
    assert 0 < report.dropped.total() < 100
    assert len(kept) == report.num_kept == 400 - report.dropped.total()
    assert set(kept) < {f"w{i}" for i in range(400)}


@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_no_lmdb_of_words_is_refused_by_name(tmp_path, streaming):
    cut = make_lmdb(tmp_path / "cut", [f"w{i}" for i in range(100)])
    os.truncate(cut / "data.mdb", os.path.getsize(cut / "data.mdb") // 2)
    (tmp_path / "zeros").mkdir()
    (tmp_path / "zeros" / "data.mdb").write_bytes(bytes(8192))
    messages = {
        cut: r"cut: data\.mdb is cut off, it has \d+ of \d+ bytes",
        tmp_path / "zeros": r"zeros cannot be read as an LMDB",
        write_entries(tmp_path / "other", {"a": b"b"}): r"other: num-samples must be the number of words, got None",
        write_entries(tmp_path / "odd", {"num-samples": b"-1"}): r"odd: num-samples .* got b'-1'",
        make_lmdb(tmp_path / "none", []): r"none: no words in 1 LMDB folders",
    }
    for folder, message in messages.items():
        with pytest.raises(ValueError, match=message):
            load_words(folder, streaming=streaming)
    with pytest.raises(ValueError, match=r"has the splits \['train'\], not 'test'"):
        load_words(make_lmdb(tmp_path / "good", ["a"]), "test", streaming=streaming)


def test_a_changed_file_is_read_anew(tmp_path):
    folder = make_lmdb(tmp_path / "words", ["one", "two"])
    first = load_words(folder)
    assert load_words(folder).cache_files == first.cache_files
    write_entries(folder, {"label-000000002": b"six"})
    assert texts_of(load_words(folder)) == ["one", "six"]


def test_without_the_library_the_error_says_how_to_get_it(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ImportError, match=r'pip install -c constraints.txt "\.\[lmdb\]"'):
        load_words(root)


def test_workers_and_processes_read_each_word_of_a_stream_once(root):
    stream = load_words(root, streaming=True)
    everything = sorted(texts_of(stream))
    assert stream.n_shards == 64
    for words in (stream, clean_words(stream)[0].shuffle(seed=0, buffer_size=50)):
        batches = list(DataLoader(words, batch_size=16, num_workers=2, collate_fn=texts_of_batch))
        assert sorted(chain(*batches)) == everything
        assert len(batches) > 20
    nodes = [texts_of(split_dataset_by_node(stream, rank, 4)) for rank in range(4)]
    assert sorted(chain(*nodes)) == everything
    assert min(map(len, nodes)) > 80

    shuffled = stream.shuffle(seed=0, buffer_size=50)
    epochs = []
    for epoch in (0, 1, 0):
        shuffled.set_epoch(epoch)
        epochs.append(texts_of(shuffled))
    assert epochs[0] == epochs[2] != epochs[1]
    assert sorted(epochs[0]) == everything != epochs[0]


def test_streams_of_the_same_folder_go_side_by_side(root):
    stream = load_words(root, streaming=True)
    left_half_read = iter(stream)
    next(left_half_read)
    pairs = list(zip(stream, load_words(root, streaming=True), strict=True))
    assert len(pairs) == 350
    assert all(first == second for first, second in pairs)
    assert next(left_half_read)["text"] == "a1"


def test_threads_read_a_folder_while_the_process_forks(root):
    streams = [load_words(root, streaming=True) for _ in range(12)]
    with ThreadPoolExecutor(4) as pool:
        reading = [pool.submit(texts_of, stream) for stream in streams]
        for _ in range(3):
            batches = DataLoader(streams[0], batch_size=50, num_workers=2, collate_fn=texts_of_batch, timeout=60)
            assert sum(map(len, batches)) == 350
        assert {len(texts.result()) for texts in reading} == {350}


def test_the_trainer_trains_on_a_stream(tmp_path, root):
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Clip4STRConfig(
        text_config=tower | {"projection_dim": 32, "vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513},
        vision_config=tower | {"projection_dim": 32, "image_size": 16, "patch_size": 8},
        max_label_length=8,
        num_frozen_text_layers=0,
    )
    processor = Clip4STRProcessor.from_config(config)
    words, _ = clean_words(load_words(root, streaming=True).shuffle(seed=0, buffer_size=50), processor)
    arguments = TrainingArguments(
        tmp_path / "run",
        per_device_train_batch_size=4,
        max_steps=2,
        logging_steps=1,
        dataloader_num_workers=2,
        remove_unused_columns=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    model = Clip4STRForSceneTextRecognition(config)
    trainer = Trainer(model, arguments, DataCollatorForTextRecognition(processor), train_dataset=words)
    trainer.train()
    assert [log["loss"] > 0 for log in trainer.state.log_history if "loss" in log] == [True, True]


# Other sources


@pytest.mark.parametrize("streaming", [False, True])
def test_texts_of_an_image_folder_are_what_the_table_says(tmp_path, streaming):
    table = '\ufefffile_name,text\na.png,007\nsub/b.png,NA\nc.png,"a,""b"\nd.png,None\n'
    folder = make_folder(tmp_path / "words", table, "a.png", "sub/b.png", "c.png", "d.png")
    words = load_words(folder, streaming=streaming)
    assert isinstance(words, IterableDataset if streaming else Dataset)
    rows = list(words)
    assert texts_of(rows) == ["007", "NA", 'a,"b', "None"]
    assert [row["image"] for row in rows][1] == {"bytes": None, "path": str(folder / "sub" / "b.png")}
    cleaned, report = clean_words(words, Clip4STRTokenizer(max_label_length=3))
    assert [row["image"].getpixel((0, 0)) for row in cleaned] == [(0, 0, 0), (1, 0, 0)]
    assert report.names == {
        "label longer than 3 characters": [f"{folder / 'c.png'} 'a,\"b'", f"{folder / 'd.png'} 'None'"]
    }


def test_names_of_images_are_not_taken_for_splits(tmp_path):
    """`datasets` alone takes these for splits and then leaves the table out of them."""
    folder = make_folder(tmp_path / "train", "file_name,text\nword_train_1.png,a\nword_test_2.png,b\n")
    for name in ("word_train_1.png", "word_test_2.png"):
        (folder / name).write_bytes(picture(1))
    assert texts_of(load_words(folder)) == ["a", "b"]


def test_images_without_a_row_and_rows_of_other_folders_are_told(tmp_path, caplog):
    folder = make_folder(tmp_path / "words", "file_name,text\na.png,one\n", "a.png")
    (folder / "notes.txt").write_text("no image")
    assert texts_of(load_words(folder)) == ["one"]
    assert not caplog.text
    (folder / "b.png").write_bytes(picture(2))
    assert texts_of(load_words(folder)) == ["one"]
    assert "2 images, but texts for at most 1" in caplog.text
    (folder / "metadata.csv").write_text(f"file_name,text\na.png,one\n{folder / 'b.png'},two\n")
    caplog.clear()
    words, report = clean_words(load_words(folder))
    assert texts_of(words) == ["one"] and report.names == {"image missing": ["row 1 'two'"]}
    assert f"1 rows name files outside their table's folder and have no image then, the first '{folder}" in caplog.text


def test_images_that_a_folder_lacks_are_named_until_they_are_there(tmp_path):
    table = "file_name,text\na.png,one\nb.png,two\n../c.png,three\n,four\n"
    folder = make_folder(tmp_path / "words", table, "a.png")
    (tmp_path / "c.png").write_bytes(picture(3))  # a table has no say outside its folder
    words, report = clean_words(load_words(folder))
    assert texts_of(words) == ["one"]
    assert report.names == {"image missing": [f"{folder / 'b.png'} 'two'", "row 2 'three'", "row 3 'four'"]}
    (folder / "b.png").write_bytes(picture(2))
    assert texts_of(clean_words(load_words(folder))[0]) == ["one", "two"]


def test_splits_and_tables_of_an_image_folder(tmp_path):
    folder = tmp_path / "words"
    make_folder(folder / "train", "file_name,label\na.png,one\n", "a.png")
    make_folder(folder / "test", "file_name,label,other\na.png,two,x\n", "a.png")
    assert texts_of(load_words(folder)) == ["one"]
    assert texts_of(load_words(folder, "test")) == ["two"]
    assert texts_of(load_words(folder, "test", text_column="other")) == ["x"]
    assert texts_of(load_words(folder / "test")) == ["two"]
    assert str(load_words(folder, "test").split) == "test"
    with pytest.raises(ValueError, match=r"has the splits \['test', 'train'\], not 'val'|\['train', 'test'\]"):
        load_words(folder, "val")
    with pytest.raises(ValueError, match=r"metadata\.csv has no column 'other', but \['file_name', 'label'\]"):
        load_words(folder, text_column="other")

    (folder / "train" / "metadata.csv").unlink()
    (folder / "train" / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "007"}))
    words = load_words(folder / "train", streaming=True)
    assert texts_of(words) == ["007"]
    assert texts_of(clean_words(words)[0]) == ["007"]


@pytest.mark.parametrize(
    "rows, problem",
    [
        ("a.png,7\nb.png,1,000\nc.png,x\n", "after line 2: more columns"),
        ('a.png,"5\nb.png,Exit\nc.png,Taxi\n', "after line 1: unexpected end of data"),
        ('a.png,"5\nb.png,"Exit"\nc.png,Taxi\n', "after line 1: ',' expected after '\"'"),
        ('a.png,"5\nb.png,6"\nc.png,Taxi\n', "after line 1: more columns or lines"),
    ],
)
def test_a_table_without_its_quotes_is_refused(tmp_path, rows, problem):
    folder = make_folder(tmp_path / "words", "file_name,text\n" + rows, "a.png", "b.png", "c.png")
    with pytest.raises(ValueError, match=f"metadata.csv, {problem}.*A text with a comma or a quote is put in quotes"):
        load_words(folder)
    table = 'file_name,text\na.png,"1,000"\nb.png,"5"" pipe"\n'
    assert texts_of(load_words(make_folder(tmp_path / "quoted", table, "a.png", "b.png"))) == ["1,000", '5" pipe']


def test_a_table_that_is_not_utf8_is_named(tmp_path):
    make_folder(tmp_path / "words", "", "a.png")
    (tmp_path / "words" / "metadata.csv").write_bytes("file_name,text\na.png,Tür\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"metadata\.csv is not UTF-8"):
        load_words(tmp_path / "words")


def test_words_of_several_kinds_are_not_read_in_part(tmp_path):
    table = "file_name,text\na.png,one\n"
    make_folder(tmp_path / "mixed" / "own", table, "a.png")
    pq.write_table(pa.table({"image": [picture(1)], "text": ["two"]}), tmp_path / "mixed" / "more.parquet")
    with pytest.raises(ValueError, match="words of several kinds, folder and parquet folder: give their folders one"):
        load_words(tmp_path / "mixed")
    make_folder(tmp_path / "tables" / "a", table, "a.png")
    row = json.dumps({"file_name": "b.png", "text": "two"})
    make_folder(tmp_path / "tables" / "b", "", "b.png").joinpath("metadata.csv").unlink()
    (tmp_path / "tables" / "b" / "metadata.jsonl").write_text(row)
    with pytest.raises(ValueError, match=r"metadata\.jsonl are of several kinds: make all of them metadata\.csv"):
        load_words(tmp_path / "tables")


def test_folders_and_files_beside_those_named_like_splits_are_not_left_out(tmp_path):
    for name in ("plates", "plates-val"):
        make_folder(tmp_path / "folders" / name, "file_name,text\na.png,one\n", "a.png")
    (tmp_path / "files").mkdir()
    for name in ("words-1", "words-eval"):
        pq.write_table(pa.table({"image": [picture(1)], "text": ["one"]}), tmp_path / "files" / f"{name}.parquet")
    for folder, left in (("folders", "plates/metadata.csv"), ("files", "words-1.parquet")):
        with pytest.raises(ValueError, match=rf"named like splits \((validation|test)\), and \['.*/{left}'\] belong"):
            load_words(tmp_path / folder)


def test_what_went_wrong_in_the_library_is_said(tmp_path):
    make_folder(tmp_path / "words", "", "a.png").joinpath("metadata.csv").unlink()
    (tmp_path / "words" / "metadata.jsonl").write_text('{"file_name": "../a.png", "text": "a"}\n')
    with pytest.raises(ValueError, match=r"words: (?!An error occurred).*\.\./a\.png"):
        load_words(tmp_path / "words")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_path_that_looks_like_a_pattern_is_the_path(tmp_path, streaming):
    make_folder(tmp_path / "plates1", "file_name,text\na.png,wrong\n", "a.png")
    make_folder(tmp_path / "plates[12]", "file_name,text\na.png,right\n", "a.png")
    assert texts_of(load_words(tmp_path / "plates[12]", streaming=streaming)) == ["right"]
    (tmp_path / "set[1]").mkdir()
    for path in (tmp_path / "word[1].parquet", tmp_path / "set[1]" / "train.parquet"):
        pq.write_table(pa.table({"image": [picture(1)], "text": ["right"]}), path)
        assert texts_of(load_words(path, streaming=streaming)) == ["right"]
    assert texts_of(load_words(tmp_path / "set[1]", streaming=streaming)) == ["right"]


@pytest.mark.parametrize("streaming", [False, True])
def test_sources_without_words_are_refused(tmp_path, streaming):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no words")
    for name in ("cat", "dog"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        (tmp_path / "classes" / name / "a.png").write_bytes(picture(1))
    pq.write_table(pa.table({"image": [picture(1)], "text": [7]}), tmp_path / "numbers.parquet")
    make_folder(tmp_path / "blank", "file_name,text\n", "a.png")
    messages = {
        "empty": "empty holds no words: accepted are LMDB folders",
        "notes.txt": r"notes\.txt holds no words",
        "classes": "classes: images without texts.* metadata.csv .*; names of folders are no texts",
        "classes/cat": "cat: images without texts.* metadata.csv with the columns file_name and text",
        "numbers.parquet": "'text' must hold text, not Value",
        "blank": r"blank/metadata\.csv: no words",
        "nowhere": "nowhere: no such file or folder",
    }
    for name, message in messages.items():
        with pytest.raises(ValueError, match=message):
            load_words(tmp_path / name, streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "column, is_image",
    [
        ([7], False),
        ([["a.png"]], False),
        ([[{"bytes": picture(1), "path": None}]], False),
        ([{"x": 1}], False),
        ([True], False),
        ([picture(1)], True),
        ([{"bytes": picture(1), "path": None}], True),
        ([[[[0, 0, 0]] * 4] * 4], True),
    ],
    ids=["numbers", "paths", "images", "others", "flags", "bytes", "structs", "pixels"],
)
def test_a_column_without_images_is_refused(tmp_path, column, is_image, streaming):
    pq.write_table(pa.table({"image": column, "text": ["a"]}), tmp_path / "words.parquet")
    if is_image:
        assert texts_of(clean_words(load_words(tmp_path / "words.parquet", streaming=streaming))[0]) == ["a"]
        return
    with pytest.raises(ValueError, match="words.parquet: the column 'image' must hold an image in each row, not"):
        load_words(tmp_path / "words.parquet", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_of_others_and_saved_sets_are_read(tmp_path, streaming):
    # Image bytes without features, other columns beside them, and a repository's other files.
    (tmp_path / "set" / "data").mkdir(parents=True)
    (tmp_path / "set" / "README.md").write_text("# Words\n")
    (tmp_path / "set" / "example.png").write_bytes(picture(9))
    for split, text in (("train", "one"), ("test", "two")):
        table = pa.table({"page": [1], "crop": [picture(1)], "text": [text], "label": [text.upper()]})
        pq.write_table(table, tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet")
    named = {"streaming": streaming, "image_column": "crop"}
    assert texts_of(load_words(tmp_path / "set", **named)) == ["one"]
    test = load_words(tmp_path / "set", "test", text_column="label", **named)
    assert list(test) == [{"image": {"bytes": picture(1), "path": None}, "text": "TWO"}]
    assert next(iter(clean_words(test)[0]))["image"].size == (12, 8)
    assert texts_of(load_words(tmp_path / "set" / "data" / "test-00000-of-00001.parquet", **named)) == ["two"]
    with pytest.raises(ValueError, match=r"has no column 'image', but \['crop', 'label', 'page', 'text'\]"):
        load_words(tmp_path / "set", streaming=streaming)

    images = Dataset.from_dict({"image": [Image.new("L", (4, 4))] * 2, "text": ["one", "two"]})
    images.save_to_disk(tmp_path / "saved")
    second = Dataset.from_dict({"image": [Image.new("L", (4, 4))], "text": ["two"]}, split="test")
    DatasetDict(test=second).save_to_disk(tmp_path / "splits")
    saved = load_words(tmp_path / "saved", streaming=streaming)
    assert texts_of(saved) == ["one", "two"]
    assert [row["image"].mode for row in clean_words(saved)[0]] == ["L", "L"]
    split = load_words(tmp_path / "splits", streaming=streaming)
    assert texts_of(split) == ["two"]
    assert str(clean_words(split)[0].split) == "test"  # files are named after it
    with pytest.raises(ValueError, match=r"has the splits \['test'\], not 'train'"):
        load_words(tmp_path / "splits", "train", streaming=streaming)
    with pytest.raises(ValueError, match=r"\['revision'\] do not apply"):
        load_words(tmp_path / "saved", revision="main")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("columns", [("image", "text"), ("crop", "word")])
def test_images_of_sets_are_read_byte_by_byte(tmp_path, form, columns, streaming):
    file = io.BytesIO()
    Image.effect_noise((40, 20), 50).save(file, "JPEG", quality=95)
    images = [{"bytes": data, "path": name} for data, name in ((file.getvalue(), "a.jpg"), (b"no image", "b.jpg"))]
    features = Features(dict(zip(columns, (ImageColumn(), Value("string")))))
    saved = Dataset.from_dict(dict(zip(columns, (images, ["one", "two"]))), features=features)
    if form == "parquet":
        saved.to_parquet(tmp_path / "set" / "train.parquet")
    else:
        saved.save_to_disk(tmp_path / "set")
    words = load_words(tmp_path / "set", streaming=streaming, image_column=columns[0], text_column=columns[1])
    assert [row["image"] for row in words] == images
    kept, report = clean_words(words)
    assert texts_of(kept) == ["one"]
    assert "b.jpg" in str(report)


# Clean-up


@pytest.mark.parametrize(
    ("tokenizer", "clean_labels", "expected"),
    [
        (None, True, ["Café 24", "字", "x" * 26]),
        (Clip4STRTokenizer(), True, ["Cafe24"]),
        (Clip4STRTokenizer(), False, []),
        (Clip4STRTokenizer(charset="0123456789abcdef"), True, ["cafe24"]),
        (Clip4STRTokenizer(charset="Café 字24"), True, ["Café 24", "字"]),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_labels_are_cleaned_as_the_tokenizer_does(tokenizer, clean_labels, expected, streaming):
    texts = ["Café 24", "字", "x" * 26, "   ", None]
    rows = {"image": [{"bytes": picture(i), "path": None} for i in range(5)], "text": texts}
    words = Dataset.from_dict(rows, features=lmdb_words.FEATURES)
    words = words.to_iterable_dataset() if streaming else words
    cleaned, report = clean_words(words, tokenizer, clean_labels)
    assert texts_of(cleaned) == expected
    assert report.num_kept == len(expected)
    assert report.num_changed == len(set(expected) - set(texts))
    assert report.num_words == 5
    assert report.names["label missing or no UTF-8"] == ["row 4 None"]


def test_any_set_with_both_columns_can_be_cleaned():
    rows = {"image": [Image.new("L", (4, 4))] * 3, "text": ["one", "", "three"], "extra": [1, 2, 3]}
    words = Dataset.from_dict(rows).select([2, 1])
    assert texts_of(clean_words(words)[0]) == ["three"]
    stream = words.to_iterable_dataset().map(lambda row: row | {"text": row["text"].upper()})
    assert texts_of(clean_words(stream)[0]) == ["THREE"]
    with pytest.raises(ValueError, match=r"No columns \['text'\] among \['extra', 'image'\]"):
        clean_words(words.remove_columns("text"))
    with pytest.raises(ValueError, match="num_proc=2 is for a Dataset"):
        clean_words(stream, num_proc=2)


def test_only_texts_are_cleaned():
    words = Dataset.from_dict({"image": [picture(1)], "text": [0]})
    for kind in (datasets.ClassLabel(names=["Exit", "Taxi"]), datasets.Value("int64")):
        labelled = words.cast_column("text", kind)
        for given in (labelled, labelled.to_iterable_dataset()):
            with pytest.raises(ValueError, match="the column 'text' must hold text, not "):
                clean_words(given)
    texts = words.cast_column("text", datasets.Value("string"))
    left, report = clean_words(texts.select([]))
    assert len(left) == report.num_words == 0


def test_a_report_names_the_first_ten_only():
    report = CleaningReport()
    for index in range(10_000):
        report.add("label empty", False, f"row {index} ''")
    assert report.dropped == {"label empty": 10_000}
    assert report.names == {"label empty": [f"row {index} ''" for index in range(10)]}
    assert str(report).endswith("row 9 '', ..")
    for index in range(11):
        report.add(None, True, f"row {index} 'a b' as 'ab'")
    assert report.num_changed == 11 and len(report.changes) == 10
    assert str(report).splitlines()[0].endswith("row 9 'a b' as 'ab', ..")


# Saved words


def test_bytes_and_labels_survive_every_form(root, tmp_path):
    assert save_words(load_words(root, streaming=True), tmp_path / "parquet") == 350
    assert save_words(load_words(tmp_path / "parquet"), tmp_path / "datasets", "datasets") == 350
    assert save_words(load_words(tmp_path / "datasets", streaming=True), tmp_path / "lmdb", "lmdb") == 350
    expected = {b"num-samples": b"350"}
    for index, row in enumerate(load_words(root, streaming=True), 1):
        expected |= {b"image-%09d" % index: row["image"]["bytes"], b"label-%09d" % index: row["text"].encode()}
    assert read_entries(tmp_path / "lmdb") == expected
    assert sorted(os.listdir(tmp_path / "lmdb")) == ["data.mdb", "lock.mdb"]
    # Others read images.
    assert os.listdir(tmp_path / "parquet") == ["train-00000-of-00001.parquet"]
    for words in (
        load_dataset(str(tmp_path / "parquet"), split="train"),
        load_dataset("parquet", data_dir=str(tmp_path / "parquet"), split="train"),
        load_from_disk(tmp_path / "datasets"),
    ):
        assert words[0]["image"].getpixel((0, 0)) == (1, 0, 0)
        assert words.num_rows == 350


def test_files_of_images_are_copied_as_they_are(tmp_path):
    folder = make_folder(tmp_path / "words", "file_name,text\nb.png,one\n", "b.png")
    for form in saving.FORMATS:
        words, _ = clean_words(load_words(folder))
        save_words(words, tmp_path / form, form)
        (row,) = load_words(tmp_path / form)
        assert row["image"]["bytes"] == picture(0)
        assert str(tmp_path) not in (row["image"]["path"] or "")


def test_large_sets_are_written_in_shards_and_maps_grow(root, tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "BATCH_WORDS", 50)
    monkeypatch.setattr(lmdb_words, "INITIAL_MAP_SIZE", 1 << 15)
    words = load_words(root)
    assert save_words(words, tmp_path / "parquet", shard_size=10_000) == 350
    names = [f"train-{index:05d}-of-00004.parquet" for index in range(4)]
    assert sorted(os.listdir(tmp_path / "parquet")) == names
    assert save_words(load_words(tmp_path / "parquet"), tmp_path / "lmdb", "lmdb") == 350
    assert texts_of(load_words(tmp_path / "lmdb")) == texts_of(words)
    assert os.path.getsize(tmp_path / "lmdb" / "data.mdb") > 1 << 15


@pytest.mark.parametrize("form", saving.FORMATS)
def test_nothing_is_half_written(tmp_path, damaged, form):
    rows = {"image": [{"bytes": picture(1), "path": None}] * 2 + [None], "text": ["one", "two", "three"]}
    words = Dataset.from_dict(rows, features=lmdb_words.FEATURES)
    before = sorted(tmp_path.iterdir())
    if form != "datasets":
        with pytest.raises(ValueError, match="Row 2 has no image or no text"):
            save_words(words, tmp_path / "out", form)
        with pytest.raises(ValueError, match="Row 1 has no image: "):
            save_words(load_words(damaged), tmp_path / "out", form)
    with pytest.raises(ValueError, match="no words to write"):
        save_words(words.select([]), tmp_path / "out", form)
    assert sorted(tmp_path.iterdir()) == before

    save_words(words.select([0]), tmp_path / "out", form)
    with pytest.raises(ValueError, match="out exists"):
        save_words(words.select([0, 1]), tmp_path / "out", form)
    assert texts_of(load_words(tmp_path / "out")) == ["one"]
    save_words(words.select([0, 1]), tmp_path / "out", form, overwrite=True)
    assert texts_of(load_words(tmp_path / "out")) == ["one", "two"]
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds more than files of words"):
        save_words(words.select([0]), tmp_path / "out", form, overwrite=True)
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "out"])


def test_forms_that_do_not_exist_or_go_with_a_stream_are_refused(root, tmp_path):
    with pytest.raises(ValueError, match="format='zip' must be one of"):
        save_words(load_words(root), tmp_path / "out", "zip")
    with pytest.raises(ValueError, match="needs a Dataset, not a stream"):
        save_words(load_words(root, streaming=True), tmp_path / "out", "datasets")


@pytest.mark.parametrize("form", ["parquet", "lmdb"])
def test_memory_does_not_grow_with_the_number_of_words(tmp_path, monkeypatch, form):
    monkeypatch.setattr(saving, "BATCH_WORDS", 20)
    monkeypatch.setattr(words_module, "BATCH_WORDS", 20)
    peaks = []
    for count in (100, 100, 500):  # the first run pays for imports and caches
        folder = make_lmdb(tmp_path / f"{len(peaks)}", ["word"] * count, padding=bytes(5000))
        tracemalloc.start()
        words, report = clean_words(load_words(folder, streaming=True), Clip4STRTokenizer())
        assert save_words(words, tmp_path / f"{form}{len(peaks)}", form) == report.num_kept == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.3 * peaks[1]
