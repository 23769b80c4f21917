"""The processes of a distributed run: which one writes, and where the others wait for it.

Room: continual. Asked for anew at every use, since the trainer sets the state up again for each run.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from neurolora.continual.config import StreamConfig

#: The others wait while the main process scores and publishes: hours, for a large model on a large test set.
PATIENCE = timedelta(days=1)


def processes(config: StreamConfig) -> Any:
    """accelerate's state of this process: `is_main_process`, `wait_for_everyone`, `main_process_first`."""
    from accelerate import PartialState

    sections = [config.train, *(entry.train for entry in config.strategies)]
    return PartialState(cpu=any(section.get("use_cpu", False) for section in sections), timeout=PATIENCE)
