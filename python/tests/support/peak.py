# SPDX-License-Identifier: Apache-2.0
"""The most memory that a process has had."""

import gc
import threading

import psutil


class Peak:
    """How much more memory of its own a process has had than where it began."""

    def __enter__(self):
        gc.collect()
        self._process = psutil.Process()
        self._first = self.most = self._own()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _own(self):
        info = self._process.memory_info()
        return info.rss - info.shared

    def _watch(self):
        while not self._ended.wait(0.002):
            self.most = max(self.most, self._own())

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    @property
    def more(self):
        return self.most - self._first
