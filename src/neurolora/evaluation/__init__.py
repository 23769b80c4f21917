"""Scores of models and adapters: lm-eval on the unmerged model, likelihoods, losses, decoding, loading.

Room: evaluation. Training, studies and the commands call it. Importing it imports neither lm-eval nor
transformers; each name below is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurolora.evaluation.classification import ClassificationAccuracy, classification_accuracy
    from neurolora.evaluation.decoding import Completion, DecodingSettings, generate_completions
    from neurolora.evaluation.harness import evaluate
    from neurolora.evaluation.likelihood import TokenPair, score_continuations
    from neurolora.evaluation.results import EvaluationResult
    from neurolora.evaluation.scores import (
        LikelihoodAccuracy,
        TokenLoss,
        answer_token_loss,
        label_likelihood_accuracy,
    )

# Public name -> the file of this room that holds it.
_HOMES = {
    "ClassificationAccuracy": "classification",
    "Completion": "decoding",
    "DecodingSettings": "decoding",
    "EvaluationResult": "results",
    "LikelihoodAccuracy": "scores",
    "TokenLoss": "scores",
    "TokenPair": "likelihood",
    "answer_token_loss": "scores",
    "classification_accuracy": "classification",
    "evaluate": "harness",
    "generate_completions": "decoding",
    "label_likelihood_accuracy": "scores",
    "score_continuations": "likelihood",
}

__all__ = [
    "ClassificationAccuracy",
    "Completion",
    "DecodingSettings",
    "EvaluationResult",
    "LikelihoodAccuracy",
    "TokenLoss",
    "TokenPair",
    "answer_token_loss",
    "classification_accuracy",
    "evaluate",
    "generate_completions",
    "label_likelihood_accuracy",
    "score_continuations",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
