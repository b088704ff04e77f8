# SPDX-License-Identifier: Apache-2.0
"""What happens to a file on a disk: it is cut short, emptied, or a bit of it is another."""

import os


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def emptied(path):
    os.truncate(path, 0)


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
