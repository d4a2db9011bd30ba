"""Large blocks between small ones go back to the kernel when they are freed."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from pathlib import Path
from bridge.http.heap import give_back_large_blocks

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4_096

give_back_large_blocks()
bytearray(8_000_000)  # freed: glibc would take blocks of this size from its heap from now on
before = resident()
large, small = [], []
for number in range(300):
    large.append(bytes([number % 256]) * 200_000)
    small.append(bytes([number % 256]) * 2_000)
large.clear()
print(resident() - before)
"""


def test_large_blocks_between_small_ones_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) < 8_000_000
