# SPDX-License-Identifier: Apache-2.0
"""The private packages behind `lancedb.integrations.torch`. This module imports nothing."""
