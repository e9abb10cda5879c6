"""The kernels as cubins: found, kept, and compiled for every GPU without a register spilled."""

import re
import shutil
import struct

import pytest

from engine.errors import ConfigError, MissingDependencyError
from engine.model.gpu import kernels

EM_CUDA = 190


def test_sources_are_all_that_the_kernels_include():
    texts = kernels.sources()
    assert {
        "kernels/engine.cu",
        "device.hpp",
        "forest.cuh",
        "gpu/forest_view.hpp",
        "model/functions.inc",
    } <= set(texts)
    assert "cuda_host.hpp" not in texts  # the machine of the tests


def test_a_digest_changes_with_any_source():
    texts = kernels.sources()
    other = {**texts, "rows.cuh": texts["rows.cuh"] + "\n"}
    assert re.fullmatch("[0-9a-f]{16}", kernels.digest(texts))
    assert kernels.digest(texts) != kernels.digest(other)


def test_a_cubin_is_compiled_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []
    monkeypatch.setattr(kernels, "compiled", lambda texts, capability: calls.append(capability) or b"cubin")
    assert kernels.image(90) == kernels.image(90) == b"cubin"
    assert kernels.image(86) == b"cubin"
    assert calls == [90, 86]
    kept = sorted((tmp_path / "deadline-engine" / "kernels").iterdir())
    assert [path.name for path in kept] == [
        f"{kernels.digest(kernels.sources())}-sm_{n}.cubin" for n in (86, 90)
    ]


def test_a_home_that_cannot_be_written_costs_the_compilation_again(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(kernels, "compiled", lambda texts, capability: b"cubin")
    assert kernels.image(90) == b"cubin"


def test_without_a_compiler_the_error_says_which(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernels, "nvrtc", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        MissingDependencyError, match="pip install nvidia-cuda-nvrtc, or put nvcc on the PATH"
    ):
        kernels.image(90)


def test_an_old_gpu_is_refused():
    with pytest.raises(ConfigError, match=r"compute capability 7.0 is too old: kernels need 7.5"):
        kernels.image(70)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("capability", kernels.CAPABILITIES)
def test_nvcc_compiles_the_kernels_without_spills(capability):
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    cubin = kernels.by_nvcc(kernels.sources(), capability, "-Xptxas", "-warn-spills,-Werror")
    assert struct.unpack_from("<H", cubin, 18)[0] == EM_CUDA


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nvrtc_compiles_the_kernels():
    library = kernels.nvrtc()
    if library is None:
        pytest.skip("nvidia-cuda-nvrtc is not installed")
    cubin = kernels.by_nvrtc(library, kernels.sources(), 80)
    assert struct.unpack_from("<H", cubin, 18)[0] == EM_CUDA
    broken = {**kernels.sources(), "rows.cuh": "#error broken on purpose"}
    with pytest.raises(
        ConfigError, match=r"NVRTC does not compile the kernels for sm_80: .*broken on purpose"
    ):
        kernels.by_nvrtc(library, broken, 80)
