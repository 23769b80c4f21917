"""Does an adapter, loaded by a new process, compute what it computed when it was saved?

Room: cli. The demo writes the outputs beside the adapter and runs this file as a process of its own:
`python -m neurolora.cli.reload_check FOLDER` ends with 0 if the outputs are equal to the bit, else with 1.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from neurolora.files import atomic_path

OUTPUTS = "eval/demo_outputs.safetensors"
ROWS = 16


def use_one_thread() -> None:
    """One thread for torch: sums have one order on any machine, and so small a model gains nothing by more.

    On a busy machine more would even cost: threads of one product wait for each other.
    """
    import torch

    torch.set_num_threads(1)


def outputs(folder: Path, model: Any, tokenizer: Any) -> dict[str, Any]:
    """Inputs and logits of the first test rows of the task that the adapter was trained on."""
    import torch

    from neurolora.tasks import CompletionCollator, encode_all, load_examples, read_task

    request = read_task(folder).request
    rows, _ = encode_all(load_examples(request, "test")[:ROWS], tokenizer, 512, "drop")
    batch = CompletionCollator(tokenizer)(rows)
    inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
    model.eval()
    with torch.no_grad():
        logits = model(**inputs).logits
    return {**{name: value.cpu() for name, value in inputs.items()}, "logits": logits.cpu().contiguous()}


def write_outputs(folder: Path, model: Any, tokenizer: Any) -> None:
    """Keep the outputs of the model that is in memory, for a new process to compare with."""
    from safetensors.torch import save_file

    with atomic_path(folder / OUTPUTS) as target:
        save_file(outputs(folder, model, tokenizer), target)


def differences(folder: Path) -> list[str]:
    """What differs between the saved outputs and those of the adapter loaded from `folder`."""
    import torch
    from safetensors.torch import load_file

    from neurolora.evaluation.loading import load_for_inference

    saved = load_file(folder / OUTPUTS)
    loaded = load_for_inference(folder)
    found = outputs(folder, loaded.model, loaded.tokenizer)
    return [
        f"{name}: the largest difference is {(value.double() - found[name].double()).abs().max():g}"
        for name, value in saved.items()
        if not torch.equal(value, found[name])
    ]


if __name__ == "__main__":
    use_one_thread()
    different = differences(Path(sys.argv[1]))
    print("; ".join(different) or "equal", file=sys.stderr)
    sys.exit(bool(different))
