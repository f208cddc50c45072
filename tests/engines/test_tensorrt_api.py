"""The adapter against the API of TensorRT 8.6, 10.3, 11.4 and TensorRT-RTX: see tests/support/fake_tensorrt.py."""

import ast
from pathlib import Path

import numpy as np
import pytest

from tests.support.fake_tensorrt import FakeLibrary, installed, small_network
from tests.support.tensorrt_api import Unreachable, bindings, default_cache, read_api, rtx_api, stored
from tests.support.tensorrt_cases import TENSORS, VERSIONS, build, new_library, opened
from yolov6core.engines.onnx_facts import file_layers

ADAPTER = sorted((Path(__file__).parents[2] / "yolov6core" / "engines").glob("tensorrt_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_the_stored_api_is_that_of_the_real_bindings(version):
    """Downloads the bindings of a version once, into the user's cache."""
    try:
        found = rtx_api() if version == "rtx" else read_api(*bindings(version, default_cache()))
    except Unreachable as error:
        pytest.skip(str(error))
    assert found == stored()[version], "run python -m tests.support.tensorrt_api, and look at the difference"


def test_the_fake_library_takes_what_the_real_one_takes():
    library = FakeLibrary("8.6.1")
    with pytest.raises(AttributeError, match="STRONGLY_TYPED"):
        _ = library.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    with pytest.raises(AttributeError, match="IStreamReaderV2"):
        _ = library.IStreamReaderV2
    builder = library.Builder("logger")
    with pytest.raises(TypeError, match="fit none"):
        builder.create_network(0, 1)
    with pytest.raises(TypeError, match="fit none"):
        builder.create_network(flag=1)
    with pytest.raises(TypeError):
        _ = 1 << library.NetworkDefinitionCreationFlag.EXPLICIT_BATCH
    config = builder.create_builder_config()
    with pytest.raises(AttributeError, match="max_workspace"):
        config.max_workspace = 1
    assert not hasattr(FakeLibrary("11.4.0.106"), "IInt8EntropyCalibrator2")


def used_names() -> set[str]:
    """Names after a dot, and strings that flags are looked up by, in the files of the adapter."""
    found = set()
    for path in ADAPTER:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isupper():
                found.add(node.value)
    return found


def members(table) -> set[str]:
    names = set(table["functions"])
    for api in table["classes"].values():
        names |= set(api["methods"]) | set(api["properties"])
    return names.union(*table["enums"].values())


OURS = {"builder", "file", "get_batch_size", "log", "logger", "shape"}
"""Names of our own that some class of TensorRT has as well."""
ONLY_IN = {
    "EXPLICIT_BATCH": {"8.6.1", "10.3.0"},
    "STRONGLY_TYPED": {"10.3.0", "11.4.0.106", "rtx"},
    "FP16": {"8.6.1", "10.3.0"},
    "OBEY_PRECISION_CONSTRAINTS": {"8.6.1", "10.3.0"},
    "precision": {"8.6.1", "10.3.0"},
    "set_output_type": {"8.6.1", "10.3.0"},
    "int8_calibrator": {"8.6.1", "10.3.0"},
    "set_calibration_profile": {"8.6.1", "10.3.0"},
    "INT64": {"10.3.0", "11.4.0.106", "rtx"},
    "BF16": {"10.3.0", "11.4.0.106", "rtx"},
}
"""Names that some versions lack; the adapter looks before it uses them, and the tests above run it in all versions."""


def test_every_name_of_the_adapter_is_in_every_version_or_known_not_to_be():
    table = {version: members(api) for version, api in stored().items()}
    for name in (used_names() - OURS) & set().union(*table.values()):
        having = {version for version, names in table.items() if name in names}
        assert having == ONLY_IN.get(name, set(VERSIONS)), name


def test_every_name_of_the_adapter_is_used_in_some_version_here(files, tmp_path):
    """So that the fake library checks the arguments of every call, also of calls that are still to be written."""
    touched = set()
    for version in ("8.6.1", "10.3.0"):
        library = new_library(version)
        library.values["OnnxParser.num_errors"] = 1
        with installed(library):
            small_network(library, [(name, "CONVOLUTION") for name in file_layers(files["cache"]).float_convolutions])
            options = {"hardware_compatibility": "ampere_plus", "version_compatible": True, "workspace_mib": 1}
            build(library, files["cache"], tmp_path, **options)
            build(library, files["fixed"], tmp_path, dla_core=0)
            engine = opened(library, tmp_path, dla_core=0, version_compatible=True)
            engine.infer(np.zeros((1, 3, 8, 8), np.float32))
            engine = opened(library, tmp_path, TENSORS | {"scores": ("OUTPUT", "FP8", (-1, 5, 2))})
            with pytest.raises(ValueError, match="has type"):
                engine.infer(np.zeros((1, 3, 8, 8), np.float32))
            library.behaviours["OnnxParser.parse"] = lambda parser, data: False
            with pytest.raises(ValueError, match="the parser refuses"):
                build(library, files["plain"], tmp_path)
        touched |= {name.rsplit(".")[-1] for name in library.touched}
    known = set().union(*(members(api) for api in stored().values()))
    assert (used_names() - OURS) & known - touched == set()
