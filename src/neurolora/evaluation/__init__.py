"""Scores of models and adapters: lm-eval on the unmerged model, likelihoods, losses, decoding, loading.

Room: evaluation. Training, studies and the commands call it. Importing it imports neither lm-eval nor
transformers; each name below is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurolora.lazy import lazy_attributes

if TYPE_CHECKING:
    from neurolora.evaluation.classification import ClassificationAccuracy, classification_accuracy
    from neurolora.evaluation.decoding import Completion, DecodingSettings, generate_completions
    from neurolora.evaluation.harness import evaluate
    from neurolora.evaluation.likelihood import TokenPair, score_continuations
    from neurolora.evaluation.loading import Loaded, describe_model, load_for_inference
    from neurolora.evaluation.prompts import render_prompts
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
    "Loaded": "loading",
    "TokenLoss": "scores",
    "TokenPair": "likelihood",
    "answer_token_loss": "scores",
    "classification_accuracy": "classification",
    "describe_model": "loading",
    "evaluate": "harness",
    "generate_completions": "decoding",
    "label_likelihood_accuracy": "scores",
    "load_for_inference": "loading",
    "render_prompts": "prompts",
    "score_continuations": "likelihood",
}

__all__ = [
    "ClassificationAccuracy",
    "Completion",
    "DecodingSettings",
    "EvaluationResult",
    "LikelihoodAccuracy",
    "Loaded",
    "TokenLoss",
    "TokenPair",
    "answer_token_loss",
    "classification_accuracy",
    "describe_model",
    "evaluate",
    "generate_completions",
    "label_likelihood_accuracy",
    "load_for_inference",
    "render_prompts",
    "score_continuations",
]

__getattr__ = lazy_attributes(__name__, _HOMES)
