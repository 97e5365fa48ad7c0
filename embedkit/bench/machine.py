"""The machine: processor, instructions, versions of libraries."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from embedkit.bench._material import Size
from embedkit.bench._page import Row
from embedkit.threads import count_cores

TITLE = "Machine"
HOW = "Ratios below carry over to machines with the same instructions; absolute times do not."
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")
LIBRARIES = ("torch", "transformers", "onnxruntime", "scikit-learn", "lightgbm", "numpy")


def rows(size: Size) -> Iterator[Row]:  # noqa: ARG001  every table takes it
    """What this machine is, without measuring anything."""
    import torch

    cpuinfo = _read_cpuinfo()
    yield Row("processor", cpuinfo.get("model name", platform.processor() or platform.machine()))
    yield Row("cores for this process", float(count_cores()))
    known = set(cpuinfo.get("flags", cpuinfo.get("Features", "")).split())
    yield Row("instructions", " ".join(name for name in INSTRUCTIONS if name in known) or "unknown")
    yield Row("GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none")
    yield Row("Python", platform.python_version())
    for name in LIBRARIES:
        yield Row(name, _find_version(name))


def _read_cpuinfo() -> dict[str, str]:
    """The first processor's entries in /proc/cpuinfo; {} where that does not exist."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _find_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
