"""A frozen Hugging Face encoder: texts or images in, one vector each out.

Room: fly. Loads a model by folder or hub name and runs it; writes nothing. `features.py` keeps what it makes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurolora.errors import ConfigError, DataError, explain
from neurolora.fly.expansion import Array
from neurolora.fly.tokens import text_reader
from neurolora.provenance import fingerprint_file, fingerprint_json

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("text", "image")
#: How the last hidden states (rows, length, d) become one vector -> what it does.
POOLINGS: dict[str, str] = {
    "mean": "over the tokens that are no padding",
    "cls": "the first token's",
    "pooler": "the model's own pooled output",
}


@dataclass(frozen=True)
class BackboneSettings:
    """Which encoder, and how it is read. Raises ConfigError for a kind or pooling that there is not.

    name: a folder or a hub name. kind: "text" or "image". pooling: a key of `POOLINGS`, None = mean for
    texts, cls for images. max_length: tokens of a text; longer ones, and those beyond the model's window, are
    cut.
    """

    name: str
    kind: str = "text"
    pooling: str | None = None
    max_length: int = 128
    batch_size: int = 32
    device: str | None = None

    def __post_init__(self) -> None:
        if self.pooling is None:
            object.__setattr__(self, "pooling", "mean" if self.kind == "text" else "cls")
        for what, value, known in (("kind", self.kind, KINDS), ("pooling", self.pooling, tuple(POOLINGS))):
            if value not in known:
                asked = f"the backbone's {what} {value!r}"
                raise ConfigError(explain(asked, "there is no such thing", f"Give one of {', '.join(known)}"))
        for what in ("max_length", "batch_size"):
            if getattr(self, what) < 1:
                raise ConfigError(explain(f"{what} {getattr(self, what)}", "it is below 1", "Give 1 or more"))

    def meaning(self) -> dict[str, Any]:
        """What the features depend on, whatever the batch and the device."""
        values = asdict(self)
        del values["name"], values["batch_size"], values["device"]
        return values


class Backbone:
    """The model and its tokenizer or image processor, loaded when first needed."""

    def __init__(self, settings: BackboneSettings) -> None:
        self.settings = settings
        self._run: Callable[[Sequence[Any], Sequence[str]], Array] | None = None
        self._identity: str | None = None

    def identity(self) -> str:
        """A fingerprint of the weights, the tokenizer and the settings, taken once. Raises ConfigError."""
        if self._identity is None:
            self._identity = fingerprint_json([_files_of(self.settings.name), self.settings.meaning()])
        return self._identity

    def __call__(self, items: Sequence[Any], places: Sequence[int] | None = None) -> Array:
        """Features (n, d), float32, in the order of the items: texts, or paths of images.

        places: where the items stand among all, for errors. Raises ConfigError for a backbone that cannot be
        loaded, DataError for an item that cannot be read or whose features are not finite.
        """
        if self._run is None:
            _require_folder(self.settings.name)
            self._run = _load(self.settings)
        called = [f"item {place}" for place in (range(len(items)) if places is None else places)]
        found = self._run(items, called)
        if not np.isfinite(found).all():
            row = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
            asked = f"features of {self.settings.name}"
            told = f"{called[row]} gives NaN or infinity"
            raise DataError(explain(asked, told, "Use another backbone or item"))
        return found


def _files_of(name: str) -> Any:
    """What tells one backbone from another: its files' digests, or the hub's commit."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        kinds = ("*.safetensors", "*.bin", "*.json", "*.txt", "*.model")
        files = sorted({path for kind in kinds for path in folder.glob(kind)})
        return [(path.name, fingerprint_file(path)) for path in files]
    _require_folder(name)
    config = _from_pretrained("AutoConfig", name)
    return [name, getattr(config, "_commit_hash", None)]


def _require_folder(name: str) -> None:
    """Raises ConfigError for what can only be a path, and is none: it is no name to ask the hub for."""
    folder = Path(name).expanduser()
    if (folder.is_absolute() or name.startswith(".")) and not folder.is_dir():
        raise ConfigError(explain(f"loading the backbone {name}", "no such folder", "Check the path"))


def _from_pretrained(what: str, name: str) -> Any:
    import transformers

    try:
        return getattr(transformers, what).from_pretrained(name)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        do = "Give a folder or a hub name of a model with files of that kind"
        raise ConfigError(explain(f"loading the backbone {name} ({what})", reason, do)) from error


def _load(settings: BackboneSettings) -> Callable[[Sequence[Any], Sequence[str]], Array]:
    import torch

    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = _tower(_from_pretrained("AutoModel", settings.name), settings.kind).eval().to(device)
    if settings.kind == "text":
        tokenizer = _from_pretrained("AutoTokenizer", settings.name)
        prepare: Any = text_reader(tokenizer, model, settings.max_length, settings.name)
    else:
        prepare = _images(settings)
    masked = "attention_mask" in inspect.signature(model.forward).parameters

    def run(items: Sequence[Any], called: Sequence[str]) -> Array:
        with torch.inference_mode():
            inputs = {name: value.to(device) for name, value in prepare(items, called).items()}
            mask = inputs.get("attention_mask") if masked else inputs.pop("attention_mask", None)
            return _pooled(model(**inputs), mask, settings).float().cpu().numpy()

    return run


def _tower(model: Any, kind: str) -> Any:
    """The encoder alone: the front of an encoder-decoder, this kind's side of a text-and-image model."""
    if getattr(model.config, "is_encoder_decoder", False):
        return model.get_encoder()
    return getattr(model, "vision_model" if kind == "image" else "text_model", model)


def _images(settings: BackboneSettings) -> Callable[[Sequence[Path], Sequence[str]], Any]:
    processor = _from_pretrained("AutoImageProcessor", settings.name)
    return lambda items, called: processor(images=[_open(path) for path in items], return_tensors="pt")


def _open(path: Path) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(explain(f"reading the image {path}", str(error), "Give an image file")) from error


def _pooled(output: Any, mask: Tensor | None, settings: BackboneSettings) -> Tensor:
    """One vector (rows, d) an item."""
    if settings.pooling == "pooler":
        pooled = getattr(output, "pooler_output", None)
        if pooled is None:
            asked = f"the pooled output of {settings.name}"
            raise ConfigError(explain(asked, "the model has none", "Give another pooling: mean or cls"))
        flat: Tensor = pooled.flatten(1)
        return flat
    states: Tensor = output.last_hidden_state
    if states.ndim == 4:  # feature maps of a convolutional model (rows, d, height, width)
        states, mask = states.flatten(2).transpose(1, 2), None
    if settings.pooling == "cls":
        return states[:, 0]
    if mask is None:
        return states.mean(1)
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)
