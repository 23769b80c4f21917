"""The strategies as rows: what each does, stores and needs, and where it comes from.

Room: continual. `cell.py` runs any of them in one loop; tables and `--help` read the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from neurolora.continual.ewc import EwcKnobs, EwcLearner
from neurolora.continual.frozen import GrowKnobs, GrowLearner, OLoraKnobs, OLoraLearner
from neurolora.continual.learner import Carry, Knobs, Learner
from neurolora.continual.lwf import LwfKnobs, LwfLearner
from neurolora.continual.protect import ProtectKnobs, ProtectLearner
from neurolora.continual.replay import ReplayKnobs, ReplayLearner

ADAPTERS = ("lora", "dora", "flylora", "neurolora")
ROUTED = ("flylora", "neurolora")


class NoKnobs(Knobs):
    """For strategies without settings."""


@dataclass(frozen=True)
class Strategy:
    """One way to learn a stream of tasks.

    carry: what becomes of the earlier tasks' adapter (`learner.Carry`). stores: what passes from task to task
    beside the adapter. grows: whether that, or the adapter, grows with the number of tasks. methods: the
    adapters that it works with. default_method: where a config names none. scope: `stream` learns task after
    task; the bounds are `alone`, each task by itself, and `together`, all rows at once. needs_task: whether
    it must be told which task an input is of when it is used.
    """

    name: str
    about: str
    source: str
    learner: type[Learner]
    knobs: type[Knobs] = NoKnobs
    carry: Carry = "weights"
    stores: str = "nothing"
    grows: bool = False
    methods: tuple[str, ...] = (*ADAPTERS, "full")
    default_method: str = "neurolora"
    scope: str = "stream"
    needs_task: bool = False


_ROWS = (
    Strategy("sequential", "one adapter, trained on task after task", "the papers' ...-Seq", Learner),
    Strategy(
        "ewc",
        "weights that mattered are pulled back to where they were",
        "arXiv 1612.00796; online form arXiv 1805.06370",
        EwcLearner,
        EwcKnobs,
        stores="Fisher information and anchor: twice the trained weights",
        default_method="lora",
    ),
    Strategy(
        "o-lora",
        "a new LoRA for each task, orthogonal to the frozen earlier ones",
        "arXiv 2310.14152",
        OLoraLearner,
        OLoraKnobs,
        carry="frozen",
        stores="the earlier LoRAs, in the adapter: r ranks a task",
        grows=True,
        methods=("lora",),
        default_method="lora",
    ),
    Strategy(
        "replay",
        "some rows of earlier tasks are learned again",
        "arXiv 1902.10486",
        ReplayLearner,
        ReplayKnobs,
        stores="rows of every task",
        grows=True,
    ),
    Strategy(
        "lwf",
        "on the new task's inputs the answers stay what they were",
        "arXiv 1606.09282",
        LwfLearner,
        LwfKnobs,
        stores="nothing (in training a copy of the trained weights)",
    ),
    Strategy(
        "grow",
        "a fresh block with its own A for each task beside the frozen earlier ones",
        "ours",
        GrowLearner,
        GrowKnobs,
        carry="frozen",
        stores="the earlier blocks, in the adapter",
        grows=True,
        methods=ROUTED,
    ),
    Strategy(
        "protect",
        "what is learned is kept orthogonal to the columns that earlier tasks use",
        "ours",
        ProtectLearner,
        ProtectKnobs,
        stores="how often each rank was active: r numbers a module",
        methods=ROUTED,
    ),
    Strategy(
        "alone",
        "each task by itself: the bound without a stream",
        "a bound",
        Learner,
        carry="nothing",
        stores="an adapter for each task",
        grows=True,
        scope="alone",
        needs_task=True,
    ),
    Strategy(
        "together",
        "all tasks' rows at once: the bound with all data",
        "a bound",
        Learner,
        carry="nothing",
        scope="together",
    ),
)
STRATEGIES = {row.name: row for row in _ROWS}
