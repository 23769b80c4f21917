"""Learners for streams of classes, beside the fly's: each with `partial_fit(X, y)` and `predict(X)`.

`fly_streams.py` runs them. They are here for comparison alone and check nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.svm import SVC

from neurolora.fly.ridge import penalties, solve_best

EPOCHS, BATCH = 10, 64


class Centred:
    """A learner of features less the mean of the first rows it sees."""

    def __init__(self, learner: Any) -> None:
        self.learner = learner

    def partial_fit(self, X: Any, y: Any) -> None:
        if not hasattr(self, "mean"):
            self.mean = X.mean(axis=0)
        self.learner.partial_fit(X - self.mean, y)

    def predict(self, X: Any) -> Any:
        return self.learner.predict(X - self.mean)


class NearestMean:
    """The class whose mean is nearest (Euclidean); means are streamed."""

    def __init__(self) -> None:
        self.sums: dict[Any, Any] = {}

    def partial_fit(self, X: Any, y: Any) -> None:
        for label in np.unique(y):
            total, count = self.sums.get(label, (0.0, 0))
            self.sums[label] = (total + X[y == label].sum(axis=0), count + (y == label).sum())

    def predict(self, X: Any) -> Any:
        labels = sorted(self.sums)
        means = np.stack([self.sums[label][0] / self.sums[label][1] for label in labels])
        return np.array(labels)[(np.square(means).sum(axis=1) - 2 * X @ means.T).argmin(axis=1)]


class RawRidge:
    """Streaming ridge on the features themselves with an intercept: Fly-CL without the expansion."""

    def __init__(self) -> None:
        self.classes: list[Any] = []
        self.count = 0

    def partial_fit(self, X: Any, y: Any) -> None:
        X = np.column_stack([X, np.ones(len(X))])
        if not self.count:
            self.gram = np.zeros((X.shape[1],) * 2, order="F")
            self.moments = np.zeros((X.shape[1], 0))
        self.classes += [label for label in np.unique(y) if label not in self.classes]
        self.moments = np.pad(self.moments, ((0, 0), (0, len(self.classes) - self.moments.shape[1])))
        self.gram += X.T @ X
        self.moments += X.T @ (y[:, None] == np.array(self.classes))
        self.count += len(X)
        grid = penalties(self.gram, None)
        self.found = solve_best(self.gram, self.moments, float(self.count), self.count, grid)

    def predict(self, X: Any) -> Any:
        X = np.column_stack([X, np.ones(len(X))])
        return np.array(self.classes)[(X @ self.found.weights).argmax(axis=1)]


class Sgd:
    """Logistic regression by stochastic gradient: several epochs over a step's rows, then they are gone."""

    def __init__(self, classes: Any, seed: int, rate: float) -> None:
        self.classes, self.seed = classes, seed
        self.model = SGDClassifier(
            loss="log_loss", learning_rate="constant", eta0=rate, alpha=1e-5, random_state=seed
        )

    def partial_fit(self, X: Any, y: Any) -> None:
        random = np.random.default_rng(self.seed)
        for _ in range(EPOCHS):
            order = random.permutation(len(y))
            self.model.partial_fit(X[order], y[order], classes=self.classes)

    def predict(self, X: Any) -> Any:
        return self.model.predict(X)


class EwcHead:
    """A softmax head by Adam with EWC (online, diagonal empirical Fisher); only seen classes compete."""

    def __init__(self, classes: Any, seed: int, weight: float, rate: float) -> None:
        self.classes, self.seed, self.weight, self.rate = np.asarray(classes), seed, weight, rate
        self.seen = np.zeros(len(self.classes), dtype=bool)

    def partial_fit(self, X: Any, y: Any) -> None:
        import torch

        inputs, labels = torch.tensor(X, dtype=torch.float32), torch.tensor(np.searchsorted(self.classes, y))
        torch.manual_seed(self.seed)
        if not hasattr(self, "head"):
            self.head = torch.nn.Linear(X.shape[1], len(self.classes))
            torch.nn.init.zeros_(self.head.weight)
            torch.nn.init.zeros_(self.head.bias)
            self.fisher = [torch.zeros_like(p) for p in self.head.parameters()]
        self.seen |= np.isin(self.classes, y)
        kept = [p.detach().clone() for p in self.head.parameters()]
        optimizer = torch.optim.Adam(self.head.parameters(), lr=self.rate)
        batches = [batch for _ in range(EPOCHS) for batch in torch.randperm(len(y)).split(BATCH)]
        for batch in batches:
            loss = torch.nn.functional.cross_entropy(self._logits(inputs[batch]), labels[batch])
            for fisher, now, then in zip(self.fisher, self.head.parameters(), kept, strict=True):
                loss = loss + self.weight / 2 * (fisher * (now - then).square()).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self._add_fisher(inputs, labels)

    def _add_fisher(self, inputs: Any, labels: Any) -> None:
        """The sum over rows of squared gradients of the log-likelihood: (p - onehot)^2 times x^2."""
        import torch

        with torch.no_grad():
            error = torch.softmax(self._logits(inputs), dim=1)
            error[torch.arange(len(labels)), labels] -= 1
            self.fisher[0] += error.square().T @ inputs.square() / len(labels)
            self.fisher[1] += error.square().mean(dim=0)

    def _logits(self, inputs: Any) -> Any:
        import torch

        return self.head(inputs).masked_fill(torch.tensor(~self.seen), -1e9)

    def predict(self, X: Any) -> Any:
        import torch

        with torch.no_grad():
            return self.classes[self._logits(torch.tensor(X, dtype=torch.float32)).argmax(dim=1).numpy()]


class Joint:
    """A classifier fitted anew on all rows so far: keeps every sample, forgets nothing.

    make: gives the classifier for the rows (X, y) that are there.
    """

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make = make
        self.rows: list[tuple[Any, Any]] = []

    def partial_fit(self, X: Any, y: Any) -> None:
        self.rows.append((X, y))
        X, y = (np.concatenate(part) for part in zip(*self.rows, strict=True))
        self.label = y[0] if len(np.unique(y)) == 1 else None
        if self.label is None:
            self.model = self.make(X).fit(X, y)

    def predict(self, X: Any) -> Any:
        return np.full(len(X), self.label) if self.label is not None else self.model.predict(X)


class Logistic:
    """Makes a logistic regression with penalty 1 / C, a linear rival."""

    def __init__(self, C: float) -> None:
        self.C = C

    def __call__(self, X: Any) -> Any:
        return LogisticRegression(C=self.C, max_iter=2000)


class RadialSvc:
    """Makes a support vector machine with a radial kernel, a non-linear rival.

    gamma: in units of 1 / (features times their variance), scikit-learn's "scale".
    """

    def __init__(self, C: float, gamma: float) -> None:
        self.C, self.gamma = C, gamma

    def __call__(self, X: Any) -> Any:
        return SVC(C=self.C, gamma=self.gamma / (X.shape[1] * X.var()))
