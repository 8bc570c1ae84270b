"""What a probe found."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Status = Literal["ok", "warning", "error"]


class Finding(BaseModel):
    """One thing looked at.

    Attributes:
        name: what was looked at.
        status: ``ok``; ``warning`` when something may be missed or misled by it; ``error`` when something
            the user asked for, or every user needs, cannot work.
        detail: what is the case.
        advice: what to do about it; None when there is nothing to do.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    status: Status
    detail: str
    advice: str | None = None


def ok(name: str, detail: str) -> Finding:
    """It is as it should be, or a plain fact."""
    return Finding(name=name, status="ok", detail=detail)


def warning(name: str, detail: str, advice: str | None = None) -> Finding:
    """Some work will not go, or go wrong, because of it."""
    return Finding(name=name, status="warning", detail=detail, advice=advice)


def error(name: str, detail: str, advice: str | None = None) -> Finding:
    """It has to be mended."""
    return Finding(name=name, status="error", detail=detail, advice=advice)
