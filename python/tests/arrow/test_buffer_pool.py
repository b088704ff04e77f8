# SPDX-License-Identifier: Apache-2.0
"""What the system's allocator keeps of what is freed."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes
from lancedb.integrations._torch.arrow.buffer_pool import keep_freed

libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]

def is_mapped_anew(megabytes):
    block = libc.malloc(megabytes << 20)
    size_and_bits = ctypes.c_size_t.from_address(block - ctypes.sizeof(ctypes.c_size_t))
    is_mapped = size_and_bits.value & 2
    libc.free(block)
    return bool(is_mapped)

found = [is_mapped_anew(20)]
keep_freed(28 << 20)
print(*found, is_mapped_anew(24))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="how glibc keeps what is freed")
def test_blocks_of_a_size_that_was_kept_are_not_mapped_anew():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False"]
