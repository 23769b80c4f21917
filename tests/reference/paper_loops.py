"""Equations 1-8 of arXiv 2603.12378, token by token and number by number; nothing of src is imported.

Every function works on nested lists (or tensors, indexed) of numbers: Python floats, or 0-d float64 tensors,
through which autograd then gives the gradients of the loops themselves.
"""

from __future__ import annotations

import math

import torch


def number(v):
    return float(v.detach()) if isinstance(v, torch.Tensor) else v


def erf(v):
    return torch.erf(v) if isinstance(v, torch.Tensor) else math.erf(v)


def exp(v):
    return torch.exp(v) if isinstance(v, torch.Tensor) else math.exp(v)


def sqrt(v):
    return torch.sqrt(v) if isinstance(v, torch.Tensor) else math.sqrt(v)


def matrix_times_vector(matrix, vector):
    result = []
    for row in matrix:
        total = 0.0
        for j in range(len(vector)):
            total = total + row[j] * vector[j]
        result.append(total)
    return result


def gelu(v):
    return v * 0.5 * (1.0 + erf(v / math.sqrt(2.0)))


def sigmoid(v):
    return 1.0 / (1.0 + exp(-v))


def gate(x, W1, W2, gamma, beta):
    """Eq. 3 for one token."""
    bottleneck = [gelu(v) for v in matrix_times_vector(W1, x)]
    opened = [sigmoid(v) for v in matrix_times_vector(W2, bottleneck)]
    return [opened[i] * gamma[i] + beta[i] for i in range(len(opened))]


def modulated(x, A, m):
    """Eq. 4 for one token; m None is FlyLoRA."""
    h = matrix_times_vector(A, x)
    return h if m is None else [h[i] * m[i] for i in range(len(h))]


def select(h_mod, k, routing="abs", bias=None):
    """Eq. 5 for one token: take the largest k times; only a strictly larger one beats a lower index."""
    scores = []
    for i in range(len(h_mod)):
        score = abs(number(h_mod[i])) if routing == "abs" else number(h_mod[i])
        scores.append(score if bias is None else score + number(bias[i]))
    chosen = []
    for _ in range(k):
        best = None
        for i in range(len(scores)):
            if i not in chosen and (best is None or scores[i] > scores[best]):
                best = i
        chosen.append(best)
    return sorted(chosen)


def update(h_mod, chosen, B, alpha):
    """Eq. 6 with the alpha / r of Eq. 1, for one token."""
    r = len(h_mod)
    dy = []
    for row in B:
        total = 0.0
        for i in chosen:
            total = total + row[i] * h_mod[i]
        dy.append(alpha / r * total)
    return dy


def cosine(B, i, j):
    dot, left, right = 0.0, 0.0, 0.0
    for row in B:
        dot = dot + row[i] * row[j]
        left = left + row[i] * row[i]
        right = right + row[j] * row[j]
    return dot / (sqrt(left) * sqrt(right))


def token_orthogonality(B, r, chosen):
    """Eq. 7 for one token."""
    inactive = [j for j in range(r) if j not in chosen]
    if not inactive:
        return 0.0
    total = 0.0
    for i in chosen:
        for j in inactive:
            total = total + cosine(B, i, j) ** 2
    return total / (len(chosen) * len(inactive))


def orthogonality(B, r, chosen_by_token):
    """Eq. 7 averaged over tokens; 0 without tokens."""
    total = 0.0
    for chosen in chosen_by_token:
        total = total + token_orthogonality(B, r, chosen)
    return total / max(1, len(chosen_by_token))


def total_loss(task, orth, weight):
    """Eq. 8."""
    return task + weight * orth


def run(tokens, A, B, gate_values, k, alpha, routing="abs", bias=None):
    """All tokens: h', the selected sets, dy and Eq. 7. gate_values: None, (m,) or Eq. 3's four."""
    h_mods, sets, outputs = [], [], []
    for x in tokens:
        if gate_values is None:
            m = None
        elif len(gate_values) == 1:
            m = gate_values[0]
        else:
            m = gate(x, *gate_values)
        h_mod = modulated(x, A, m)
        chosen = select(h_mod, k, routing, bias)
        h_mods.append(h_mod)
        sets.append(chosen)
        outputs.append(update(h_mod, chosen, B, alpha))
    return h_mods, sets, outputs, orthogonality(B, len(A), sets)
