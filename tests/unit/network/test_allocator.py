from __future__ import annotations

import subprocess
import sys

import pytest

# Passes over a few pieces of the size that layers have, in a thread: how many pages come anew in the later ones.
_FAULTS = """
import resource, sys, threading
from imagekin_worker.network import allocator
import numpy as np

if sys.argv[1] == "keep" and not allocator.keep_memory():
    sys.exit("no glibc")

def work():
    for _ in range(10):
        pieces = [np.empty(size * 2**20, np.uint8) for size in (20, 8, 24, 12)]
        for piece in pieces:
            piece.fill(1)
        del pieces, piece

def run():
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

run()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
run()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", _FAULTS, how], capture_output=True, text=True, check=False)
    if "no glibc" in done.stderr:
        pytest.skip("the C library is not glibc")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_that_was_freed_is_used_again() -> None:
    assert _faults("keep") < 500
    assert _faults("not") > 5_000
