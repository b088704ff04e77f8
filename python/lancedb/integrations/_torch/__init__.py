# SPDX-License-Identifier: Apache-2.0
"""The private rooms behind `lancedb.integrations.torch`; knows nothing and imports nothing."""
