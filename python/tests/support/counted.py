# SPDX-License-Identifier: Apache-2.0
"""A plan whose cost is counted in rows, not in seconds."""

from lancedb.integrations._torch.order.epoch_order import EpochOrder


class Counted(EpochOrder):
    """A plan that counts how many rows it was asked for."""

    asked = 0

    def window_rows_of(self, window):
        rows = super().window_rows_of(window)
        Counted.asked += len(rows)
        return rows
