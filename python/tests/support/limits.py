# SPDX-License-Identifier: Apache-2.0
"""How long a test waits for what ends within seconds, unless something hangs."""

# A guard, and not a measure: kept by a machine many times slower, with other tests beside it.
# pytest's own limit, in pyproject.toml, is above it.
HANGS = 600
