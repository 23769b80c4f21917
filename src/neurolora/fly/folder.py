"""What a run's folder tells about it, without its classifier.

Room: fly. `run.py` writes such folders; it and the command read them here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from neurolora.errors import ConfigError, DataError, explain
from neurolora.fly.backbone import BackboneSettings
from neurolora.fly.data import LabelledSource

CLASSIFIER, FACTS = "fly.safetensors", "fly.json"


class RunFacts(NamedTuple):
    """backbone: its settings. data: of this run. earlier: of those that it goes on from, the first first."""

    backbone: BackboneSettings
    data: LabelledSource
    earlier: tuple[LabelledSource, ...]

    @property
    def all_data(self) -> tuple[LabelledSource, ...]:
        """All that its classifier has learned from, the last first."""
        return (self.data, *reversed(self.earlier))


def read_run(folder: Path) -> RunFacts:
    """What `neurolora fly train` has written there. Raises DataError for another folder, ConfigError."""
    path = folder / FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return RunFacts(
            BackboneSettings(**facts["backbone"]),
            LabelledSource(**facts["data"]),
            tuple(LabelledSource(**source) for source in facts.get("earlier", ())),
        )
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        do = "Give a folder that `neurolora fly train` has written"
        raise DataError(explain(f"reading {path}", f"it tells no run ({error})", do)) from error
