"""Timing in turns, and memory that stays with the process meanwhile."""

import platform
import subprocess
import sys

import pytest

import conditional_adapters as ca
from conditional_adapters.analysis.timing import Timing, time_interleaved


def test_candidates_take_turns_after_a_warm_up() -> None:
    calls: list[str] = []
    candidates = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    timings = time_interleaved(candidates, rounds=4, warmup=2)
    rounds = {"".join(calls[i : i + 2]) for i in range(0, len(calls), 2)}
    assert len(calls) == 12
    assert rounds == {"ab", "ba"}
    for timing in timings.values():
        assert len(timing.seconds) == 4
        assert 0 <= timing.quartiles[0] <= timing.median <= timing.quartiles[2]
    prepared: list[str] = []
    time_interleaved(candidates, prepare=prepared.append, rounds=3, warmup=0)
    assert prepared == calls[:6]
    assert Timing((1.0, 2.0, 4.0)).speed_up(over=Timing((3.0, 4.0, 16.0))) == 3.0
    with pytest.raises(ca.ConfigError, match=r"rounds must be at least 3 .*got 2"):
        time_interleaved(candidates, rounds=2)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
def test_pages_of_long_batches_are_kept_when_freed() -> None:
    # What a dense layer frees at 32 x 2048 tokens: pages that went back to the system would be
    # fetched anew in each layer, within the time of the dense model alone.
    code = """if True:
        import ctypes, resource
        from conditional_adapters.analysis.timing import keep_freed_memory

        assert keep_freed_memory()
        libc, size = ctypes.CDLL(None), 2**31 + 2**28
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        libc.free.argtypes = [ctypes.c_void_p]

        def use_pages():
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            pages = libc.malloc(size)
            libc.memset(pages, 1, size)
            libc.free(pages)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults

        print(use_pages(), use_pages())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = map(int, done.stdout.split())
    assert first > 1000  # pages may be huge ones
    assert second < first / 100
