"""Scores of models and adapters: lm-eval on the unmerged model, likelihoods, losses, decoding, loading.

Room: evaluation. Training, studies and the commands call it. Importing it imports neither lm-eval nor
transformers; each name below is loaded when it is first used. Accuracy without labels is the room
`neurolora.estimation`, whose names are here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurolora.lazy import lazy_attributes

if TYPE_CHECKING:
    from neurolora.estimation import (
        DEFAULT_MEASURE,
        MEASURES,
        PERTURBATIONS,
        AccuracyEstimator,
        Agreement,
        Estimate,
        Measure,
        Perturbation,
        atc_threshold,
        confidences,
        correlations,
        energies,
        entropies,
        fit_temperature,
        frechet_distance,
        measure_set,
        meta_distribution_energy,
        perturb_rows,
        perturb_text,
    )
    from neurolora.evaluation.accuracy_estimate import Calibration, calibrate, estimate_accuracy
    from neurolora.evaluation.classification import ClassificationAccuracy, classification_accuracy
    from neurolora.evaluation.decoding import Completion, DecodingSettings, generate_completions
    from neurolora.evaluation.harness import evaluate
    from neurolora.evaluation.identity import identity_difference, identity_of
    from neurolora.evaluation.likelihood import TokenPair, score_continuations
    from neurolora.evaluation.loading import Loaded, describe_model, load_for_inference
    from neurolora.evaluation.logits import (
        AnswerLogits,
        AnswerScores,
        answer_logits,
        answer_scores,
        example_logits,
        example_scores,
    )
    from neurolora.evaluation.prompts import render_prompts
    from neurolora.evaluation.results import EvaluationResult
    from neurolora.evaluation.scores import (
        LikelihoodAccuracy,
        TokenLoss,
        answer_token_loss,
        label_likelihood_accuracy,
    )
    from neurolora.evaluation.task_scores import task_score

# Public name -> the file of this room that holds it, or the room below.
_HOMES = {
    "AccuracyEstimator": "neurolora.estimation",
    "Agreement": "neurolora.estimation",
    "AnswerLogits": "logits",
    "AnswerScores": "logits",
    "Calibration": "accuracy_estimate",
    "ClassificationAccuracy": "classification",
    "Completion": "decoding",
    "DecodingSettings": "decoding",
    "Estimate": "neurolora.estimation",
    "EvaluationResult": "results",
    "LikelihoodAccuracy": "scores",
    "Loaded": "loading",
    "DEFAULT_MEASURE": "neurolora.estimation",
    "MEASURES": "neurolora.estimation",
    "Measure": "neurolora.estimation",
    "PERTURBATIONS": "neurolora.estimation",
    "Perturbation": "neurolora.estimation",
    "TokenLoss": "scores",
    "TokenPair": "likelihood",
    "answer_logits": "logits",
    "answer_scores": "logits",
    "answer_token_loss": "scores",
    "atc_threshold": "neurolora.estimation",
    "calibrate": "accuracy_estimate",
    "classification_accuracy": "classification",
    "confidences": "neurolora.estimation",
    "correlations": "neurolora.estimation",
    "describe_model": "loading",
    "energies": "neurolora.estimation",
    "entropies": "neurolora.estimation",
    "estimate_accuracy": "accuracy_estimate",
    "evaluate": "harness",
    "example_logits": "logits",
    "example_scores": "logits",
    "fit_temperature": "neurolora.estimation",
    "frechet_distance": "neurolora.estimation",
    "generate_completions": "decoding",
    "identity_difference": "identity",
    "identity_of": "identity",
    "label_likelihood_accuracy": "scores",
    "load_for_inference": "loading",
    "measure_set": "neurolora.estimation",
    "meta_distribution_energy": "neurolora.estimation",
    "perturb_rows": "neurolora.estimation",
    "perturb_text": "neurolora.estimation",
    "render_prompts": "prompts",
    "score_continuations": "likelihood",
    "task_score": "task_scores",
}

__all__ = [
    "DEFAULT_MEASURE",
    "MEASURES",
    "PERTURBATIONS",
    "AccuracyEstimator",
    "Agreement",
    "AnswerLogits",
    "AnswerScores",
    "Calibration",
    "ClassificationAccuracy",
    "Completion",
    "DecodingSettings",
    "Estimate",
    "EvaluationResult",
    "LikelihoodAccuracy",
    "Loaded",
    "Measure",
    "Perturbation",
    "TokenLoss",
    "TokenPair",
    "answer_logits",
    "answer_scores",
    "answer_token_loss",
    "atc_threshold",
    "calibrate",
    "classification_accuracy",
    "confidences",
    "correlations",
    "describe_model",
    "energies",
    "entropies",
    "estimate_accuracy",
    "evaluate",
    "example_logits",
    "example_scores",
    "fit_temperature",
    "frechet_distance",
    "generate_completions",
    "identity_difference",
    "identity_of",
    "label_likelihood_accuracy",
    "load_for_inference",
    "measure_set",
    "meta_distribution_energy",
    "perturb_rows",
    "perturb_text",
    "render_prompts",
    "score_continuations",
    "task_score",
]

__getattr__ = lazy_attributes(__name__, _HOMES)
