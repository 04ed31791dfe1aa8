"""What a check of the host found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of `hyperctl doctor`."""

    name: str
    status: str
    """ok, warn or fail"""
    detail: str
    remedy: str = ""
