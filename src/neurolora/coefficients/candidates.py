"""A base model that takes on one merge after another: what a candidate's weights are judged on.

Room: coefficients. Each candidate is merged by `neurolora.merging` into a folder of its own, which is gone
when the model has taken its tensors; the base is loaded once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from neurolora.adapter_file import WEIGHTS
from neurolora.evaluation import load_for_inference
from neurolora.merging import MergeRequest, merge_request


class Candidates:
    """The merges of one request, with the weights still open."""

    def __init__(self, request: MergeRequest, force: Iterable[str] = (), load: dict[str, Any] | None = None):
        self.request, self.force, self.load = request, tuple(force), load or {}
        self.model: Any = None
        self.tokenizer: Any = None

    def take(self, weights: Sequence[float]) -> None:
        """Let the model be the merge with these weights. Raises what `merge_request` raises."""
        parents = tuple(
            replace(parent, weight=float(weight))
            for parent, weight in zip(self.request.parents, weights, strict=True)
        )
        with tempfile.TemporaryDirectory(prefix="neurolora-") as folder:
            output = Path(folder) / "candidate"
            merge_request(replace(self.request, parents=parents), output, force=self.force)
            if self.model is None:
                self.model, self.tokenizer, _ = load_for_inference(output, **self.load)
            else:
                self._put(load_file(output / WEIGHTS))

    def _put(self, tensors: dict[str, Any]) -> None:
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.model, tensors)
