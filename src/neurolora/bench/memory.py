"""Benchmark `memory`: what each method keeps for the backward, and what its file weighs.

Room: bench. On a CPU the tensors saved for the backward are counted, a storage that several share once,
weights left out; on a GPU the peak of allocated memory over a step is taken as well.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neurolora.bench.methods import Method, adapted
from neurolora.bench.shapes import Shape, embeddings, llama_config, make_base, twin
from neurolora.bench.train_step import training_step
from neurolora.core.kernels import use_kernels


def saved_bytes(model: nn.Module, inputs: Tensor, method: Method) -> int:
    """Bytes of distinct storages saved for the backward in one training forward, weights left out."""
    weights = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> None:
        """Hold the storage, so that no address comes twice; the tensor would hold its graph for good."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage

    def never(_: None) -> Tensor:
        raise AssertionError("there is no backward here")

    with use_kernels(method.kernels), torch.autograd.graph.saved_tensors_hooks(note, never):
        output = model(inputs_embeds=inputs).last_hidden_state
    total = sum(storage.nbytes() for storage in kept.values())
    del output
    return total


def measure_memory(
    shape: Shape, methods: list[Method], *, dtype: torch.dtype, device: torch.device
) -> list[dict[str, Any]]:
    """A row a method: saved_bytes, adapter_saved_bytes (beyond the frozen base), peak_bytes on a GPU."""
    base, inputs = make_base(shape, dtype, device), embeddings(shape, dtype, device)
    rows: list[dict[str, Any]] = []
    for method in methods:
        model = adapted(twin(base), method).train()
        saved = saved_bytes(model, inputs, method)
        own = saved - rows[0]["saved_bytes"] if rows else 0
        row = {"method": method.name, "saved_bytes": saved, "adapter_saved_bytes": own}
        if device.type == "cuda":
            row["peak_bytes"] = _peak(model, inputs, method, device)
        rows.append(row)
        del model
    return rows


def _peak(model: nn.Module, inputs: Tensor, method: Method, device: torch.device) -> int:
    step = training_step(model, inputs, method)
    step()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device))


def file_bytes(shape: Shape, method: Method) -> int:
    """Size of the adapter's file as `save_pretrained` writes it, for a model of this shape.

    The base's weights are memory that was asked for and never touched, so that large shapes fit everywhere.
    """
    from transformers import LlamaModel

    with torch.device("meta"):
        base = LlamaModel(llama_config(replace(shape, vocabulary=8)))
    model: Any = adapted(base.to_empty(device="cpu").requires_grad_(False), method)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return (Path(folder) / "adapter_model.safetensors").stat().st_size
