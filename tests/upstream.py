# SPDX-License-Identifier: Apache-2.0
"""
transformers' own common tests, of the installed release. They are not part of the installed package: pip fetches the
source distribution once into `.cache`, and its `tests` folder is imported under another name.
"""

import importlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path
from types import ModuleType

import pytest
import transformers


PACKAGE = "transformers_tests"
CACHE = Path(__file__).parents[1] / ".cache"
# What the common tests import and the source distribution leaves out: module, name, and what stands in for it.
LEFT_OUT = {
    f"{PACKAGE}.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    f"{PACKAGE}.generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    f"{PACKAGE}.utils.test_configuration_utils": {"config_common_kwargs": {}},
    "fetch_hub_objects_for_ci": {"url_to_local_path": lambda url: url},
}


def upstream_tests(name: str) -> ModuleType:
    """The module `tests/{name}.py` of the installed transformers; skips the calling module where it cannot be had."""
    pytest.importorskip("parameterized", reason="transformers' tests need parameterized")
    try:
        folder = fetch()
    except (subprocess.SubprocessError, OSError) as error:
        reason = f"no source distribution of transformers {transformers.__version__}: {error}"
        pytest.skip(reason, allow_module_level=True)
    if PACKAGE not in sys.modules:
        sys.modules[PACKAGE] = _package(PACKAGE, folder)
        for path, content in LEFT_OUT.items():
            parent = path.rpartition(".")[0]
            if parent and parent not in sys.modules:
                sys.modules[parent] = _package(parent, folder / parent.rpartition(".")[2])
            sys.modules[path] = ModuleType(path)
            vars(sys.modules[path]).update(content)
    return importlib.import_module(f"{PACKAGE}.{name}")


def without_exceptions(exceptions: dict[str, str]):
    """Skips common tests, each with its reason; one that is no common test any more is an error."""

    def skip(cls):
        for name, reason in exceptions.items():
            assert hasattr(cls, name), f"{name} is no common test any more"
            setattr(cls, name, unittest.skip(reason)(getattr(cls, name)))
        return cls

    return skip


def fetch() -> Path:
    """The `tests` folder of the source distribution, downloaded if it is not in the cache."""
    version = transformers.__version__
    folder = CACHE / f"transformers-{version}" / "tests"
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", f"transformers=={version}", "--no-deps"]
        command += ["--no-binary=transformers", "--no-build-isolation", "--quiet", "--dest", scratch]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            inside = f"{archive.name.removesuffix('.tar.gz')}/tests/"
            tar.extractall(scratch, [member for member in tar if member.name.startswith(inside)], filter="data")
        tests = Path(scratch) / inside
        (tests / "__init__.py").touch()
        folder.parent.mkdir(parents=True, exist_ok=True)
        (CACHE / ".gitignore").write_text("*\n")
        shutil.move(tests, folder)
    return folder


def _package(name, folder):
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    return package
