# SPDX-License-Identifier: Apache-2.0
"""Addresses of databases: made absolute, and shown without what is secret."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit


def is_local(uri: str) -> bool:
    """Whether a URI is a path on this machine (a Windows drive letter is no scheme)."""
    return len(urlsplit(uri).scheme) <= 1


def normalize_uri(uri: Any) -> str:
    """A URI that means the same in every process: local paths become absolute."""
    text = os.fspath(uri)
    for prefix in ("file://", "file:"):
        if text.startswith(prefix):
            text = text[len(prefix) :]
            break
    return os.path.abspath(os.path.expanduser(text)) if is_local(text) else text


def redact_uri(uri: str) -> str:
    """`uri` without user, password and query, where credentials hide."""
    if is_local(uri):
        return uri
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def redact(message: str, uri: str) -> str:
    """Somebody's message about `uri`, without what `redact_uri` leaves out."""
    parts = urlsplit(uri)
    for hidden in (parts.netloc.rpartition("@")[0], parts.password, parts.query, parts.fragment):
        if hidden and not is_local(uri):
            message = message.replace(hidden, "...")
    return message
