"""Which allocator a benchmark runs on, and how to run it on another.

On a CPU a large computation pays for fresh pages more often than a small one, so the allocator
takes part in every comparison. All timings keep freed pages (`analysis.timing`); huge pages of
glibc, tcmalloc or jemalloc take effect at the start of a process, which is therefore started again.
"""

import os
import platform
import sys
from pathlib import Path

from benchmarks._report import Report

_MARK = "CODA_BENCHMARK_ALLOCATOR"
_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/lib64")
# The files of Debian's packages, and their names.
_LIBRARIES = {
    "tcmalloc": ("libtcmalloc_minimal.so.4", "libtcmalloc-minimal4"),
    "jemalloc": ("libjemalloc.so.2", "libjemalloc2"),
}
ALLOCATORS = ("default", "huge-pages", *_LIBRARIES)


def use_allocator(name: str, module: str) -> None:
    """Start this process again on another allocator, unless it runs on it already.

    Args:
        name: One of `ALLOCATORS`. "default" is whatever the process has.
        module: What runs, as `python -m` takes it.

    Raises:
        SystemExit: If the allocator's library is not installed.
    """
    if name == "default" or os.environ.get(_MARK) == name:
        return
    environment = {**os.environ, _MARK: name} | _environment(name)
    os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], environment)


def _environment(name: str) -> dict[str, str]:
    if name == "huge-pages":
        return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    file, package = _LIBRARIES[name]
    for folder in _FOLDERS:
        if (Path(folder) / file).exists():
            return {"LD_PRELOAD": str(Path(folder) / file)}
    raise SystemExit(
        f"--allocator {name} needs {file}, which is in none of {', '.join(_FOLDERS)}. On "
        f"Debian and Ubuntu `apt install {package}` puts it there."
    )


def describe_allocator() -> Report:
    """Say on which allocator this process runs, from its environment."""
    huge_pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "library": " ".join(platform.libc_ver()).strip() or "unknown",
        "preloaded": [Path(path).name for path in os.environ.get("LD_PRELOAD", "").split()],
        "tunables": os.environ.get("GLIBC_TUNABLES", ""),
        "keeps_freed_pages": True,
        "transparent_huge_pages": huge_pages.read_text().strip() if huge_pages.exists() else "",
    }
