"""What earlier tasks left, brought into a model that is about to learn the next one.

Room: continual. `default` is the adapter that a run trains, `past` the frozen one beside it.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

TRAINED, PAST = "default", "past"


def go_on_from(model: Any, folder: Path) -> None:
    """Give the model's trained adapter the weights of the one in `folder`, to the bit."""
    model.load_adapter(str(folder), TRAINED, is_trainable=True)


def take_over(model: Any, folder: Path) -> None:
    """Give a model that is trained as a whole the weights of the one in `folder`, to the bit.

    Not by loading that one in the base's place: then the folder's path would be a setting of the run, and a
    stream that was moved could not go on.
    """
    model.load_state_dict(type(model).from_pretrained(folder, dtype=model.dtype).state_dict())


def put_beside(model: Any, folder: Path) -> None:
    """Load the adapter in `folder` as a frozen one that is active together with the trained one.

    A checkpoint of the run holds the trained one alone, so that it stays as small as without the other.
    """
    model.load_adapter(str(folder), PAST, is_trainable=False)
    model.base_model.set_adapter([TRAINED, PAST])
    model.set_requires_grad(PAST, requires_grad=False)
    model.save_pretrained = functools.partial(model.save_pretrained, selected_adapters=[TRAINED])
