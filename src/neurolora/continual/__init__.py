"""Learning task after task: streams, strategies, metrics, runs that survive being killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurolora.lazy import lazy_attributes

if TYPE_CHECKING:
    from neurolora.continual.cell import cells
    from neurolora.continual.config import StreamConfig
    from neurolora.continual.results import table_rows
    from neurolora.continual.run import StreamResult, run_continual
    from neurolora.continual.strategies import STRATEGIES, Strategy
    from neurolora.continual.stream_file import load_stream

# Public name -> the file of this room that holds it.
_HOMES = {
    "STRATEGIES": "strategies",
    "Strategy": "strategies",
    "StreamConfig": "config",
    "StreamResult": "run",
    "cells": "cell",
    "load_stream": "stream_file",
    "run_continual": "run",
    "table_rows": "results",
}

__all__ = [
    "STRATEGIES",
    "Strategy",
    "StreamConfig",
    "StreamResult",
    "cells",
    "load_stream",
    "run_continual",
    "table_rows",
]

__getattr__ = lazy_attributes(__name__, _HOMES)
