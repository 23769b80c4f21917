"""Class-incremental streams: the accuracies counted by hand, and what a step must have."""

import numpy as np
import pytest

from neurolora.errors import ConfigError, DataError
from neurolora.fly.stream import class_steps, run_stream


class Recorder:
    """Predicts the class that was learned last; notes what it was given."""

    def __init__(self):
        self.given = []

    def partial_fit(self, X, y):
        self.given.append((X[:, 0].tolist(), y.tolist()))
        self.last = y[-1]

    def predict(self, X):
        return np.full(len(X), self.last)


X = np.arange(8.0)[:, None]
Y = np.array(["b", "a", "c", "a", "b", "c", "a", "c"])


def test_steps_are_the_classes_in_order_or_shuffled():
    assert [step.tolist() for step in class_steps(Y, 2)] == [["a", "b"], ["c"]]
    shuffled = [tuple(np.concatenate(class_steps(range(10), 3, seed))) for seed in (0, 0, 1)]
    assert shuffled[0] == shuffled[1] != shuffled[2]
    assert sorted(shuffled[0]) == list(range(10))
    with pytest.raises(ConfigError, match="0 classes a step"):
        class_steps(Y, 0)


def test_each_step_gives_the_rows_of_its_classes_and_scores_all_that_were_seen():
    learner, done = Recorder(), []
    steps = [np.array(["a"]), np.array(["c", "b"])]
    found = run_stream(learner, (X, Y), (X, Y), steps, lambda *told: done.append(told))
    assert learner.given == [
        ([1.0, 3.0, 6.0], ["a"] * 3),
        ([0.0, 2.0, 4.0, 5.0, 7.0], ["b", "c", "b", "c", "c"]),
    ]
    assert found.accuracy == (1.0, 3 / 8)
    assert found.by_step == ((1.0,), (0.0, 3 / 5))
    assert (found.average, found.last) == ((1 + 3 / 8) / 2, 3 / 8)
    assert len(found.seconds) == 2
    assert done == [(1, 2), (2, 2)]
    assert found.to_dict()["classes"] == [["a"], ["c", "b"]]


@pytest.mark.parametrize(("what", "train", "test"), [("training", Y[:3], Y), ("test", Y, Y[[0, 1]])])
def test_a_class_without_rows_is_named(what, train, test):
    train = np.array([label if label != "c" else "a" for label in train]) if what == "training" else train
    sets = (X[: len(train)], train), (X[: len(test)], test)
    with pytest.raises(DataError, match=f"class 'c': it has no {what} rows"):
        run_stream(Recorder(), *sets, [np.array(["a", "b"]), np.array(["c"])])


def test_classes_that_were_known_before_count_as_seen_and_show_what_is_forgotten():
    learner = Recorder()
    learner.last = "a"
    steps = [np.array(["b"]), np.array(["c"])]
    found = run_stream(learner, (X, Y), (X, Y), steps, known=["a", "z"])
    assert found.earlier == (1.0, 0.0, 0.0)
    assert found.accuracy == (2 / 5, 3 / 8)  # of a and b, of all three
    assert found.by_step == ((1.0,), (0.0, 1.0))
    assert (found.known, found.untested) == (("a",), ("z",))
    told = found.to_dict()
    assert (told["known"], told["earlier"], told["untested"]) == (["a"], [1.0, 0.0, 0.0], ["z"])


def test_a_known_class_that_comes_again_counts_from_the_beginning():
    learner = Recorder()
    learner.last = "a"
    found = run_stream(learner, (X, Y), (X, Y), [np.array(["b"]), np.array(["a"])], known=["a"])
    assert found.accuracy == (2 / 5, 3 / 5)
    assert found.earlier == (1.0, 0.0, 1.0)


def test_nothing_is_learned_where_a_later_step_has_no_rows():
    learner = Recorder()
    with pytest.raises(DataError, match="class 'c': it has no training rows"):
        run_stream(learner, (X[:2], Y[:2]), (X, Y), [np.array(["a"]), np.array(["c"])])
    assert learner.given == []
