"""Makes PyTorch know the pretended device. That must happen before PyTorch is imported, and nothing takes it back."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path


def compile_registration(folder: Path) -> Path | None:
    """The library that `register` loads; None where there is no C++ compiler."""
    compiler = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    if compiler is None:
        return None
    include = _torch_folder() / "include"
    headers = [f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}"]
    source, library = Path(__file__).with_name("registration.cpp"), folder / "registration.so"
    flags = ["-O0", "-shared", "-fPIC", "-std=c++20"]
    subprocess.run([compiler, *flags, *headers, str(source), "-o", str(library)], check=True)
    return library


def register(library: Path) -> None:
    """For the rest of the process."""
    assert "torch" not in sys.modules, "PyTorch looks for its devices when it is imported"
    for path in (_torch_folder() / "lib" / "libc10.so", _torch_folder() / "lib" / "libtorch_cpu.so", library):
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)  # the last one needs the others' symbols


def _torch_folder() -> Path:
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent
