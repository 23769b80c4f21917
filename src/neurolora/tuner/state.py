"""From the model to the adapter's file and back: A with its fingerprint beside it, nothing missing.

Room: tuner. Called by `model.py` from the two hooks that PEFT has for this. In the file, for each module:
`neurolora_B` (o, r), `neurolora_gate_*` (a shared gate once), `neurolora_A` (a ternary A packed to two bits
an entry, uint8, else float32; absent with `save_projection=False`) or `neurolora_A_trained` (float32),
`neurolora_A_scale` (float64) and `neurolora_A_fingerprint` (32 bytes). Every tensor is one of the model's,
of the same shape and dtype: transformers' `load_adapter` reads the file by itself, and no code of ours runs.
"""

from __future__ import annotations

import difflib
import warnings

from torch import Tensor, nn

from neurolora.core.projection import Projection, fingerprint
from neurolora.errors import AdapterError, FingerprintMismatchError, explain
from neurolora.tuner.auxiliary import adapter_layers
from neurolora.tuner.config import NeuroLoraConfig
from neurolora.tuner.fingerprint import base_difference, base_fingerprint, combined_fingerprint
from neurolora.tuner.layer import NeuroLoraLayer
from neurolora.version import __version__

A, SCALE, FINGERPRINT = "neurolora_A", "neurolora_A_scale", "neurolora_A_fingerprint"
TRAINED_A = "neurolora_A_trained"
PEFT_PREFIX = "base_model.model."
State = dict[str, Tensor]


def pack_state(model: nn.Module, config: NeuroLoraConfig, adapter: str, state: State) -> State:
    """What goes into the file: `state` with the fingerprints brought up to date, and A left out if asked.

    Writes the fingerprints of A and of the base, and the package's version, into `config` as well.

    Raises:
        AdapterError: a tensor is empty (a sharded weight that was not gathered), or only the seed of A was to
            be saved and it gives another A.
    """
    state = dict(state)
    _refuse_empty(state, "saving the adapter", "Gather sharded weights before saving (ZeRO-3, FSDP)")
    parts = {}
    for path, layer in _layers_with(model, adapter):
        projection = _projection_of(
            layer, adapter, state.get(_key(path, _name_of_a(layer, adapter), adapter))
        )
        layer.note_projection(adapter, projection)
        state[_key(path, SCALE, adapter)] = layer.neurolora_A_scale[adapter]
        state[_key(path, FINGERPRINT, adapter)] = layer.neurolora_A_fingerprint[adapter]
        parts[layer.name] = fingerprint(projection)
        if not config.save_projection:
            _require_the_seed_s(layer, adapter, projection)
            state.pop(_key(path, A, adapter), None)
    config.projection_fingerprint = combined_fingerprint(parts)
    config.base_fingerprint = base_fingerprint(_base(model))
    config.neurolora_version = __version__
    return state


def _projection_of(layer: NeuroLoraLayer, adapter: str, saved: Tensor | None) -> Projection:
    """A from the state dict that is being saved (a distributed one may differ from the layer's), else own."""
    own = layer.projection(adapter)
    if saved is None:
        return own
    return Projection.from_stored(saved.detach(), layer.in_features, own.scale)


def _require_the_seed_s(layer: NeuroLoraLayer, adapter: str, projection: Projection) -> None:
    own, drawn = fingerprint(projection), fingerprint(layer.settings[adapter].make_projection())
    if drawn != own:
        raise AdapterError(
            explain(
                f"saving only the seed of A for {layer.name}",
                f"A is {own[:16]}, but its seed gives {drawn[:16]}: it was loaded from elsewhere",
                "Save with save_projection=True",
            )
        )


def unpack_state(model: nn.Module, config: NeuroLoraConfig, adapter: str, state: State) -> State:
    """What a file's tensors are to the model: A there and checked, nothing missing, nothing left over.

    A state that is only a part is refused, whatever PEFT was told of mismatched sizes: an adapter with the A
    of one file and the B of another computes something that nobody trained.

    Raises:
        FingerprintMismatchError: A is not what the file says it is, or not what the seed gives.
        AdapterError: missing, unknown, empty or misshapen tensors, each named.
    """
    state = dict(state)
    _refuse_empty(state, "loading the adapter", "Save the adapter again from gathered weights")
    problems: list[str] = []
    consumed: set[str] = set()
    paths_in_file = {key.rpartition(".neurolora_")[0] for key in state}
    for path, layer in _layers_with(model, adapter):
        prefix = _file_prefix(path, paths_in_file)
        own = _own_tensors(layer, adapter)
        if not config.save_projection and not layer.settings[adapter].train_projection:
            state.setdefault(f"{prefix}.{A}", layer.settings[adapter].make_projection().stored())
        found = _problems_of(prefix, own, state)
        if not found:
            _check_projection(prefix, layer, adapter, state)
        problems += found
        consumed |= {f"{prefix}.{name}" for name in own}
    problems += _strangers(model, state, consumed)
    if problems:
        shown = problems[:8] + ([f"and {len(problems) - 8} more"] if len(problems) > 8 else [])
        raise AdapterError(
            explain(
                f"loading the tensors of adapter {adapter!r}",
                "; ".join(shown),
                "The file is incomplete, or was trained on another model or with another configuration",
            )
        )
    _warn_of_other_base(model, config)
    return state


def _check_projection(prefix: str, layer: NeuroLoraLayer, adapter: str, state: State) -> None:
    stored, scale = state[f"{prefix}.{_name_of_a(layer, adapter)}"], float(state[f"{prefix}.{SCALE}"])
    found = fingerprint(Projection.from_stored(stored, layer.in_features, scale))
    wanted = bytes(state[f"{prefix}.{FINGERPRINT}"].tolist()).hex()
    if wanted != found:
        raise FingerprintMismatchError(
            explain(
                f"loading the projection A of {layer.name}",
                f"the adapter was trained with A {wanted[:16]}, but the file or its seed gives {found[:16]}",
                "The file is damaged, or projection_seed, density or the modules' names differ from training",
            )
        )
    layer.projection_scale[adapter] = scale


def _name_of_a(layer: NeuroLoraLayer, adapter: str) -> str:
    return TRAINED_A if layer.settings[adapter].train_projection else A


def _own_tensors(layer: NeuroLoraLayer, adapter: str) -> dict[str, Tensor]:
    """The tensors of an adapter that one module holds, by the name of their container."""
    names = (A, SCALE, FINGERPRINT, "neurolora_bias", *layer.adapter_layer_names)
    return {name: getattr(layer, name)[adapter] for name in names if adapter in getattr(layer, name)}


def _problems_of(prefix: str, own: State, state: State) -> list[str]:
    problems = []
    for name, tensor in own.items():
        key, found = f"{prefix}.{name}", state.get(f"{prefix}.{name}")
        if found is None:
            problems.append(f"{key} is missing")
        elif found.shape != tensor.shape:
            problems.append(f"{key} has shape {tuple(found.shape)}, this model needs {tuple(tensor.shape)}")
        elif found.is_floating_point() != tensor.is_floating_point():
            problems.append(f"{key} is {found.dtype}, this model needs {tensor.dtype}")
    return problems


def _strangers(model: nn.Module, state: State, consumed: set[str]) -> list[str]:
    """Tensors that belong to nothing: not to an adapted module, nor to one that is saved in full."""
    rest = [key for key in state if key not in consumed]
    known = _names_of_tensors(model) if rest else set()
    strange = [key for key in rest if key.removeprefix(PEFT_PREFIX) not in known]
    return [f"{key} belongs to no module of this model{_nearest(key, consumed)}" for key in strange]


def _names_of_tensors(model: nn.Module) -> set[str]:
    tensors = (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    return {_in_file(name).removeprefix(PEFT_PREFIX) for group in tensors for name, _ in group}


def _in_file(path: str) -> str:
    """A path without the segments that FSDP adds, which are not in its state dict either."""
    return ".".join(part for part in path.split(".") if part != "_fsdp_wrapped_module")


def _file_prefix(path: str, paths_in_file: set[str]) -> str:
    """The module's path as the file has it: as a rule with PEFT's prefix, wrapper or not."""
    bare = path.removeprefix(PEFT_PREFIX)
    return bare if bare in paths_in_file else PEFT_PREFIX + bare


def _warn_of_other_base(model: nn.Module, config: NeuroLoraConfig) -> None:
    difference = base_difference(config.base_fingerprint, _base(model))
    if difference:
        warnings.warn(f"Loading a NeuroLoRA adapter: {difference}.", UserWarning, stacklevel=2)


def _refuse_empty(state: State, asked: str, do: str) -> None:
    empty = [key for key, tensor in state.items() if isinstance(tensor, Tensor) and tensor.numel() == 0]
    if empty:
        raise AdapterError(explain(asked, f"these tensors have no elements: {', '.join(empty[:8])}", do))


def _nearest(key: str, known: set[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _base(model: nn.Module) -> nn.Module:
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def _key(path: str, name: str, adapter: str) -> str:
    return f"{path}.{name}.{adapter}" if path else f"{name}.{adapter}"


def _layers_with(model: nn.Module, adapter: str) -> list[tuple[str, NeuroLoraLayer]]:
    return [(_in_file(path), layer) for path, layer in adapter_layers(model) if adapter in layer.neurolora_B]
