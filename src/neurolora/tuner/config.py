"""The adapter's configuration: what PEFT stores in `adapter_config.json`.

Room: tuner. Users build these; `model.py` reads them once and hands plain values to the layers.
Everything that can be wrong is checked here, at once, with all problems in one message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from peft.config import PeftConfig

from neurolora.core.gate import GateKind
from neurolora.errors import ConfigError, explain
from neurolora.tuner.registration import peft_type

CHOICES: dict[str, tuple[Any, ...]] = {
    "projection": ("ternary", "gaussian"),
    "projection_scale": ("unit", "paper"),
    "gate": ("token", "static", "none", "router"),
    "gate_init": ("identity", "paper"),
    "gate_sharing": ("module", "input", "kind", "model"),
    "routing": ("abs", "signed"),
    "init_weights": (True, False, "gaussian"),
}


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class NeuroLoraConfig(PeftConfig):
    """Configuration of NeuroLoRA (arXiv 2603.12378, Eqs. 1-8): frozen sparse A, gate, top-k ranks.

    The defaults are Table 5 of the paper, with the decisions of docs/method.md where the paper is open.

    Args:
        r: total rank, the number of rows of A and columns of B.
        top_k: active ranks for each token (Eq. 5); exactly this many, `1 <= top_k <= r / blocks`.
        blocks: parts of equal rank that the r ranks lie in. Each has an A, a gate and `top_k` active ranks of
            its own, and the module's update is their sum: several adapters in one (`merge` by `concat`).
        lora_alpha: the update is scaled by `lora_alpha / r` (Eq. 1).
        density: fraction of non-zeros in A (the paper's rho), in (0, 1].
        projection: `"ternary"` (entries of -1, 0, +1, i.i.d.) or `"gaussian"` (exactly
            `round(density * d)` normal entries a row, as the official FlyLoRA).
        projection_scale: `"unit"` divides A by sqrt(density * d), so that A x has the scale of x;
            `"paper"` leaves the published numbers: signs as they are, a gaussian A divided by r.
        projection_seed: A is a function of this seed, the module's name and the shape, of nothing else.
        save_projection: save A with the adapter (ternary: two bits an entry); if False only the seed is
            saved and A is made again, and checked by its fingerprint, when the adapter is loaded.
        train_projection: train A too (Table 4's ablation); it is then dense and saved in full.
        gate: `"token"` (Eq. 3), `"static"` (one learned factor for each rank), `"none"` (FlyLoRA) or
            `"router"`: a learned softmax over `experts` chooses `top_k` ranks, whole experts, and weighs
            them (`MoleConfig`; core/router.py).
        experts: with a router, the parts of equal rank that it chooses among.
        balance_weight: with a router, weight of the loss that has the experts used alike; 0 switches it off.
        gate_dim: width of the gate's bottleneck (the paper's d_h).
        gate_init: `"identity"` (the modulation is exactly 1 at start) or `"paper"` (starts near 0.5).
        gate_sharing: `"module"` (one gate for each adapted module), `"input"` (modules that read the same
            tensor, such as q, k and v, share W1), `"kind"` (one gate for each projection name across
            layers) or `"model"` (one gate for each input width).
        routing: rank the modulated projection by magnitude (`"abs"`) or as it is (`"signed"`).
        load_balance_rate: step of the routing bias of FlyLoRA's load balancing; 0 switches it off.
        orthogonality_weight: lambda of Eq. 8; 0 switches the loss off.
        init_weights: True: B = 0, so that the adapter starts as no change at all; False: B random
            (Kaiming uniform); `"gaussian"`: N(0, 1/out_features), Appendix A's literal words.
        init_seed: seed of the gate's start, and of B's where it is random.
        target_modules: names, a regular expression, or `"all-linear"`; by default q, k, v and o of every
            attention block, for the architectures that PEFT knows.
        exclude_modules: names or a regular expression of modules to leave alone.
        layers_to_transform: indices of the layers to adapt.
        layers_pattern: name of the list of layers, where it is not a common one.
        modules_to_save: other modules that are trained in full and saved with the adapter.
        projection_fingerprint: written when saved: what A was.
        base_fingerprint: written when saved: what the base model was.
        neurolora_version: written when saved.

    Raises:
        ConfigError: listing every problem found.
    """

    r: int = _setting(32, "total rank: rows of A, columns of B")
    top_k: int = _setting(8, "active ranks for each token")
    blocks: int = _setting(1, "parts of the ranks that are routed each by itself")
    lora_alpha: float = _setting(16, "the update is scaled by lora_alpha / r")
    density: float = _setting(0.25, "fraction of non-zeros in A, in (0, 1]")
    projection: Literal["ternary", "gaussian"] = _setting("ternary", "how A's entries are drawn")
    projection_scale: Literal["unit", "paper"] = _setting("unit", "scale of A's entries")
    projection_seed: int = _setting(0, "seed of A")
    save_projection: bool = _setting(True, "save A with the adapter, not only its seed")
    train_projection: bool = _setting(False, "train A too (an ablation)")
    gate: GateKind = _setting("token", "the modulation before routing")  # noqa: RUF009
    experts: int = _setting(8, "with a router: parts of the ranks that it chooses among")
    balance_weight: float = _setting(0.0, "with a router: weight of its balancing loss, 0 = off")
    gate_dim: int = _setting(64, "width of the gate's bottleneck")
    gate_init: Literal["identity", "paper"] = _setting("identity", "where the gate starts")
    gate_sharing: Literal["module", "input", "kind", "model"] = _setting("module", "who shares a gate")
    routing: Literal["abs", "signed"] = _setting("abs", "rank by magnitude or by signed value")
    load_balance_rate: float = _setting(0.0, "step of the routing bias, 0 = off")
    orthogonality_weight: float = _setting(0.1, "lambda of Eq. 8, 0 = off")
    init_weights: bool | Literal["gaussian"] = _setting(True, "B's start: zero, random or gaussian")
    init_seed: int = _setting(0, "seed of the gate's start (and of B's, where random)")
    target_modules: list[str] | str | None = _setting(None, "modules to adapt")  # noqa: RUF009
    exclude_modules: list[str] | str | None = _setting(None, "modules to leave alone")  # noqa: RUF009
    layers_to_transform: list[int] | int | None = _setting(None, "layer indices to adapt")  # noqa: RUF009
    layers_pattern: list[str] | str | None = _setting(None, "name of the list of layers")  # noqa: RUF009
    modules_to_save: list[str] | None = _setting(None, "other modules, trained and saved in full")  # noqa: RUF009
    projection_fingerprint: str | None = _setting(None, "written when saved: what A was")
    base_fingerprint: dict[str, Any] | None = _setting(None, "written when saved: what the base was")  # noqa: RUF009
    neurolora_version: str | None = _setting(None, "written when saved")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type()
        self.target_modules = _as_set(self.target_modules)
        self.exclude_modules = _as_set(self.exclude_modules)
        problems = find_problems(self)
        if problems:
            raise ConfigError(
                explain(
                    f"{type(self).__name__} with these settings",
                    "; ".join(problems),
                    "Correct each of them; the fields are explained in the class's documentation",
                )
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, sets sorted, so that the same settings give the same file."""
        fields = super().to_dict()
        return {name: sorted(value) if isinstance(value, set) else value for name, value in fields.items()}

    @property
    def scaling(self) -> float:
        """The factor of Eq. 1, alpha / r."""
        return self.lora_alpha / self.r


@dataclass
class FlyLoraConfig(NeuroLoraConfig):
    """FlyLoRA (arXiv 2510.08396): the same adapter without a gate and without the orthogonality loss."""

    gate: GateKind = _setting("none", "FlyLoRA has no gate")  # noqa: RUF009
    orthogonality_weight: float = _setting(0.0, "FlyLoRA has no orthogonality loss")


@dataclass
class MoleConfig(NeuroLoraConfig):
    """MoLE, for comparison: LoRA in `experts` parts of r / experts ranks, chosen by a learned router.

    A is trained and dense, the router's softmax chooses `top_k` ranks (whole experts) and weighs them, and a
    balancing loss has the experts used alike. Sources: see core/router.py.
    """

    gate: GateKind = _setting("router", "a learned router chooses the experts")  # noqa: RUF009
    balance_weight: float = _setting(0.01, "weight of the balancing loss, 0 = off")
    orthogonality_weight: float = _setting(0.0, "MoLE has no orthogonality loss")
    density: float = _setting(1.0, "MoLE's A is dense")
    train_projection: bool = _setting(True, "MoLE's A is trained")


def _as_set(names: Any) -> Any:
    return set(names) if isinstance(names, list) else names


def _is_number(value: Any, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def find_problems(config: NeuroLoraConfig) -> list[str]:
    """Every reason why this configuration cannot work, in plain words; empty if there is none."""
    return [
        *_bad_integers(config),
        *_bad_numbers(config),
        *_bad_choices(config),
        *_bad_combinations(config),
    ]


def _bad_integers(config: NeuroLoraConfig) -> list[str]:
    least_of = {"r": 1, "top_k": 1, "blocks": 1, "gate_dim": 1, "experts": 1}
    least_of |= {"projection_seed": 0, "init_seed": 0}
    found = []
    for name, least in least_of.items():
        value = getattr(config, name)
        if not _is_number(value, int) or value < least:
            found.append(f"`{name}` must be a whole number of at least {least}, found {value!r}")
    return found


def _bad_numbers(config: NeuroLoraConfig) -> list[str]:
    found = []
    if not _is_number(config.density, (int, float)) or not 0 < config.density <= 1:
        found.append(f"`density` must be in (0, 1], found {config.density!r}")
    for name in ("load_balance_rate", "orthogonality_weight", "balance_weight"):
        value = getattr(config, name)
        if not _is_number(value, (int, float)) or not 0 <= value < float("inf"):
            found.append(f"`{name}` must be a finite number of at least 0, found {value!r}")
    if not _is_number(config.lora_alpha, (int, float)) or not 0 < config.lora_alpha < float("inf"):
        found.append(f"`lora_alpha` must be a finite number above 0, found {config.lora_alpha!r}")
    return found


def _bad_choices(config: NeuroLoraConfig) -> list[str]:
    found = []
    for name, allowed in CHOICES.items():
        value = getattr(config, name)
        if not any(value is a if isinstance(a, bool) else value == a for a in allowed):
            found.append(f"`{name}` must be one of {', '.join(map(repr, allowed))}, found {value!r}")
    return found


def _bad_ranks(r: int, top_k: int, blocks: int) -> list[str]:
    if r % blocks:
        return [f"`r` ({r}) must be a multiple of `blocks` ({blocks})"]
    if top_k <= r // blocks:
        return []
    each = "`r`" if blocks == 1 else "the ranks of a block"
    return [f"`top_k` ({top_k}) must not be larger than {each} ({r // blocks})"]


def _bad_experts(config: NeuroLoraConfig) -> list[str]:
    """What a router cannot do: choose parts of experts, or together with another way of routing."""
    if config.gate != "router":
        return ["`balance_weight` is a router's: it needs `gate='router'`"] if config.balance_weight else []
    if not _is_number(config.experts, int) or config.experts < 1:
        return []  # said already
    if config.r % config.experts:
        return [f"`r` ({config.r}) must be a multiple of `experts` ({config.experts})"]
    each = config.r // config.experts
    found = []
    if config.top_k % each:
        found.append(f"`top_k` ({config.top_k}) must be a multiple of the ranks of an expert ({each})")
    others = {"routing": "abs", "load_balance_rate": 0, "blocks": 1}
    for name, needed in others.items():
        if getattr(config, name) != needed:
            found.append(f"`{name}` must be {needed!r} with `gate='router'`, found {getattr(config, name)!r}")
    return found


def _bad_combinations(config: NeuroLoraConfig) -> list[str]:
    found = []
    ranks = (config.r, config.top_k, config.blocks)
    if all(_is_number(value, int) and value >= 1 for value in ranks):
        found += _bad_ranks(*ranks) or _bad_experts(config)
    if config.layers_pattern and config.layers_to_transform is None:
        found.append("`layers_pattern` is given but `layers_to_transform` is not")
    if isinstance(config.target_modules, str):
        for name in ("layers_to_transform", "layers_pattern"):
            if getattr(config, name) is not None:
                found.append(f"`{name}` cannot be used when `target_modules` is a string")
    if config.train_projection and not config.save_projection:
        found.append("`save_projection=False` cannot be used with `train_projection=True`: A would be lost")
    return found
