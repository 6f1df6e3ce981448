"""What passes between the master and processes of ours that are no Locust workers: JSON lines, in
which a failure of the work is told in words, apart from those of the channel."""

from __future__ import annotations

import base64
import os
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from bench.model import BenchError
from bench.rig import host

CLIENTS = ("glide", "redis")  # their own exceptions need no traceback


def serve(works: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer the master by these until it closes the channel. Blocks."""
    commands = {name: answering(work) for name, work in works.items()}
    with os.fdopen(0, "rb", closefd=False) as requests, os.fdopen(1, "wb", closefd=False) as out:
        for request in requests:
            out.write(host.answer(request, commands))
            out.flush()


def answering(work: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """`work` as a message: its failure is told in words, apart from those of the channel, and its
    bytes are text, which JSON can carry."""

    def told(**args: Any) -> dict[str, Any]:
        try:
            result: dict[str, Any] = _as_text(work(**args))
        except (BenchError, OSError) as failure:
            return {"failure": str(failure)}
        except Exception as failure:
            foreign = type(failure).__module__.startswith(CLIENTS)
            said = f"{type(failure).__name__}: {failure}"
            return {"failure": said if foreign else traceback.format_exc()}
        return result

    return told


def _as_text(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {name: _as_text(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_as_text(part) for part in value]
    return value


def as_told(value: Any) -> Any:
    """The other side of `answering`: what was bytes is bytes again."""
    if isinstance(value, dict):
        if set(value) == {"base64"}:
            return base64.b64decode(value["base64"])
        return {name: as_told(part) for name, part in value.items()}
    if isinstance(value, list):
        return [as_told(part) for part in value]
    return value
