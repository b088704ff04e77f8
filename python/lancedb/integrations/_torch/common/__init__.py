# SPDX-License-Identifier: Apache-2.0
"""Small things that know no subject.

What every package may use: checks of arguments, notes on errors, calls that must end in time,
whether a thing can be pickled, and counters that processes share.
"""
