"""Accuracy without labels: what logits or features of unlabelled rows say, calibrated on sets with labels.

Room: estimation. Evaluation, studies and the commands call it. Numpy, scipy and scikit-learn; no model is run
here. Each name below is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurolora.lazy import lazy_attributes

if TYPE_CHECKING:
    from neurolora.estimation.agreement import Agreement, correlations
    from neurolora.estimation.confidence import atc_threshold, confidences, entropies, fit_temperature
    from neurolora.estimation.energy import energies, meta_distribution_energy
    from neurolora.estimation.estimator import AccuracyEstimator, Estimate
    from neurolora.estimation.frechet import frechet_distance
    from neurolora.estimation.measures import DEFAULT_MEASURE, MEASURES, Measure, measure_set
    from neurolora.estimation.perturbations import PERTURBATIONS, Perturbation, perturb_rows, perturb_text

# Public name -> the file of this room that holds it.
_HOMES = {
    "AccuracyEstimator": "estimator",
    "Agreement": "agreement",
    "Estimate": "estimator",
    "DEFAULT_MEASURE": "measures",
    "MEASURES": "measures",
    "Measure": "measures",
    "PERTURBATIONS": "perturbations",
    "Perturbation": "perturbations",
    "atc_threshold": "confidence",
    "confidences": "confidence",
    "correlations": "agreement",
    "energies": "energy",
    "entropies": "confidence",
    "fit_temperature": "confidence",
    "frechet_distance": "frechet",
    "measure_set": "measures",
    "meta_distribution_energy": "energy",
    "perturb_rows": "perturbations",
    "perturb_text": "perturbations",
}

__all__ = [
    "DEFAULT_MEASURE",
    "MEASURES",
    "PERTURBATIONS",
    "AccuracyEstimator",
    "Agreement",
    "Estimate",
    "Measure",
    "Perturbation",
    "atc_threshold",
    "confidences",
    "correlations",
    "energies",
    "entropies",
    "fit_temperature",
    "frechet_distance",
    "measure_set",
    "meta_distribution_energy",
    "perturb_rows",
    "perturb_text",
]

__getattr__ = lazy_attributes(__name__, _HOMES)
