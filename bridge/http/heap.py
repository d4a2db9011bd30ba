"""How the C library's heap gives back what bodies took."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3  # malloc.h
_OWN_MAPPING_FROM = 65_536
"""Parts of bodies come in pieces of this size and up to four times as much."""


def give_back_large_blocks() -> None:
    """Have blocks of 64 KiB and more mapped by themselves, so that they go back to the kernel when they are freed.

    Otherwise glibc moves the threshold up to 32 MiB with the first large block that is freed (mallopt(3),
    M_MMAP_THRESHOLD), puts bodies between small objects, and keeps half of what a hundred large ones took. A libc
    without the call, such as musl, does it by itself.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING_FROM)
