"""What a reader must know of the machine behind a measurement."""

import os
import platform
from pathlib import Path

FLAGS = (
    *("avx2", "f16c", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8"),
    *("asimd", "asimddp", "i8mm", "sve"),
)
"""The processor's abilities that kernels of either side are chosen by, as Linux spells them."""


def machine() -> tuple[str, int]:
    """The machine in words, and the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    about = cpuinfo(Path("/proc/cpuinfo"))
    model = about.get("model name") or platform.processor() or platform.machine()
    present = set((about.get("flags") or about.get("Features") or "").split())
    flags = [flag for flag in FLAGS if flag in present]
    if "cpu family" in about:
        model += f" (family {about['cpu family']}, model {about['model']})"
    known = ", ".join(flags) or "no known flags"
    return f"{model}, {cores} cores; {known}; {platform.system()} {platform.machine()}", cores


def cpuinfo(path: Path) -> dict[str, str]:
    """The lines of the first processor; nothing where there is no such file."""
    try:
        first = path.read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
