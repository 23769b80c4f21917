"""Gates of several adapters into one: averaged, or widened so that their logits are averaged exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch.nn.functional import gelu

from neurolora.errors import ConfigError
from neurolora.merging import merge_adapters
from neurolora.merging.gates import merged_gate
from neurolora.tuner import adapter_layers

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def logits(W1: torch.Tensor, W2: torch.Tensor, x: torch.Tensor, blocks: int = 1) -> torch.Tensor:
    """W2 gelu(W1 x), each block with a bottleneck of its own."""
    pairs = zip(W1.chunk(blocks), W2.chunk(blocks), strict=True)
    return torch.cat([gelu(x @ one.T) @ two.T for one, two in pairs], dim=-1)


@pytest.mark.parametrize("blocks", [1, 3])
def test_a_widened_gate_has_the_mean_of_the_logits(blocks: int) -> None:
    torch.manual_seed(0)
    W1s, W2s = (
        [torch.randn(*shape, dtype=torch.float64) for _ in range(3)] for shape in ((blocks * 4, 7), (6, 4))
    )
    x, weights = torch.randn(5, 7, dtype=torch.float64), (1.0, 2.0, 1.0)
    W1, W2 = (merged_gate(n, t, weights, "widen", blocks) for n, t in (("W1", W1s), ("W2", W2s)))
    own = [logits(a, b, x, blocks) for a, b in zip(W1s, W2s, strict=True)]
    mean = sum(w / 4 * each for w, each in zip(weights, own, strict=True))
    torch.testing.assert_close(logits(W1, W2, x, blocks), mean)
    averaged = [merged_gate(n, t, weights, "average", blocks) for n, t in (("W1", W1s), ("W2", W2s))]
    assert not torch.allclose(logits(*averaged, x, blocks), mean, rtol=0.1), "averaging passes the GELU"


def parents(tiny: Any, folder: Any, **fields: Any) -> list[Any]:
    made = []
    for seed in range(3):
        config = tiny.make_config("llama", gate_init="paper", init_weights=False, init_seed=seed, **fields)
        get_peft_model(tiny.make("llama"), config).save_pretrained(folder / f"p{seed}")
        made.append(folder / f"p{seed}")
    return made


@pytest.mark.parametrize("sharing", ["module", "input", "kind"])
def test_the_merged_adapter_is_loaded_and_has_that_gate(tiny: Any, tmp_path: Any, sharing: str) -> None:
    paths = parents(tiny, tmp_path, gate_sharing=sharing)
    merge_adapters(paths, tmp_path / "merged", method="task_arithmetic", gates="widen")
    models = [PeftModel.from_pretrained(tiny.make("llama"), p) for p in (*paths, tmp_path / "merged")]
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    for rows in zip(*(adapter_layers(model) for model in models), strict=True):
        *own, merged = [layer.gate_parameters("default") for _, layer in rows]
        if merged[0].shape[1] != 16:
            continue
        mean = sum(logits(W1, W2, x) for W1, W2, _, _ in own) / 3
        torch.testing.assert_close(logits(merged[0], merged[1], x), mean, **CLOSE)
        torch.testing.assert_close(merged[2], sum(gate[2] for gate in own) / 3, **CLOSE)
    batch = tiny.inputs("llama")
    assert models[-1](**batch).logits.isfinite().all()


def test_a_gate_without_bottleneck_is_averaged(tiny: Any, tmp_path: Any) -> None:
    paths = parents(tiny, tmp_path, gate="static")
    merge_adapters(paths, tmp_path / "widened", gates="widen")
    merge_adapters(paths, tmp_path / "averaged")
    one, other = (
        PeftModel.from_pretrained(tiny.make("llama"), tmp_path / n) for n in ("widened", "averaged")
    )
    batch = tiny.inputs("llama")
    assert one.eval()(**batch).logits.equal(other.eval()(**batch).logits)


@pytest.mark.parametrize(
    ("how", "said"), [({"gates": "wide"}, "average, widen"), ({"gates": "widen"}, "concat")]
)
def test_words_that_mean_nothing(tiny: Any, tmp_path: Any, how: dict[str, Any], said: str) -> None:
    method = "concat" if how["gates"] == "widen" else "linear"
    with pytest.raises(ConfigError, match=said):
        merge_adapters(parents(tiny, tmp_path), tmp_path / "merged", method=method, **how)
