"""Memory and time of merging 2 to 100 adapters of the Llama-3-8B shape, with random weights.

    python benchmarks/merge_many.py --work FOLDER --out benchmarks/results/merge-many.json
    python benchmarks/merge_many.py --work FOLDER --out small.json --layers 1 --counts 2 5 10

Every adapter is a file of its own with contents of its own: no links. At the full shape one takes about
50 MB, so a hundred take 5 GB below `--work`; where the disk has less, the largest counts are left out, and
the result says so. Each merge runs in a process of its own. Its memory is the peak of what was resident,
less what was resident once everything was imported; its time is that of `merge_adapters` alone. The C
library keeps freed blocks for later, which shows as growth that levels off; with `--mmap-threshold 65536`
(glibc) it gives them back at once, and what is left is what the merge holds. The result is JSON with
provenance, and a page with the curves beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pictures_page import write_pictures

HIDDEN, KEY_VALUE, LAYERS = 4096, 1024, 32
R, GATE_DIM, SEED = 32, 64, 0
KINDS = {"q_proj": HIDDEN, "k_proj": KEY_VALUE, "v_proj": KEY_VALUE, "o_proj": HIDDEN}
COUNTS = (2, 5, 10, 20, 50, 100)
COMPARED_WITH = 3  # "within the memory of three"
SPARE = 2**30  # bytes of the disk that are left alone

MEASURE = """
import json, resource, sys, time
import torch
import safetensors.torch, jinja2, yaml
from neurolora.merging import merge_adapters
import neurolora.merging.merge

def status(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return 1024 * int(line.split()[1])

torch.set_num_threads(1)
method, density, out, *folders = json.loads(sys.argv[1])
before = status("VmRSS")
began = time.perf_counter()
merge_adapters(folders, out, method=method, density=density)
seconds = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "before": before, "peak": status("VmHWM")}))
"""


def modules(layers: int) -> dict[str, int]:
    """Adapted module -> its out_features."""
    return {
        f"model.layers.{layer}.self_attn.{kind}": width
        for layer in range(layers)
        for kind, width in KINDS.items()
    }


def projections(layers: int) -> dict[str, Any]:
    """The tensors that all adapters share: A, its scale and its fingerprint, for every module."""
    import torch

    from neurolora.core.projection import fingerprint, make_projection

    made = {}
    for name in modules(layers):
        A = make_projection(R, HIDDEN, kind="ternary", density=0.25, scale="unit", seed=SEED, name=name)
        prefix = f"base_model.model.{name}.neurolora_A"
        made[prefix] = A.stored()
        made[f"{prefix}_scale"] = torch.tensor(A.scale, dtype=torch.float64)
        made[f"{prefix}_fingerprint"] = torch.tensor(list(bytes.fromhex(fingerprint(A))), dtype=torch.uint8)
    return made


def write_adapter(folder: Path, layers: int, seed: int, shared: dict[str, Any]) -> None:
    """One adapter with `gate_sharing="kind"`, its B and gates drawn from the seed."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    tensors = dict(shared)
    for index, (name, out_features) in enumerate(modules(layers).items()):
        prefix = f"base_model.model.{name}.neurolora_"
        tensors[f"{prefix}B"] = 0.01 * torch.randn(out_features, R, generator=generator)
        if index < len(KINDS):  # stored with the first module that uses it
            tensors[f"{prefix}gate_W1"] = 0.02 * torch.randn(GATE_DIM, HIDDEN, generator=generator)
            tensors[f"{prefix}gate_W2"] = 0.02 * torch.randn(R, GATE_DIM, generator=generator)
            tensors[f"{prefix}gate_gamma"] = 2 + 0.1 * torch.randn(R, generator=generator)
            tensors[f"{prefix}gate_beta"] = 0.1 * torch.randn(R, generator=generator)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "NEUROLORA", "base_model_name_or_path": "random", "r": R, "top_k": 8, "lora_alpha": 16,
        "gate": "token", "gate_dim": GATE_DIM, "gate_sharing": "kind", "target_modules": list(KINDS),
        "base_fingerprint": {"architecture": {}, "sample": {}, "digest": "0" * 16},
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))


def write_adapters(work: Path, layers: int, counts: list[int]) -> tuple[list[Path], int, int]:
    """As many as the largest count asks for, or as the disk has room for; with the bytes of one."""
    shared, folders, size = projections(layers), [], 0
    wanted = max(*counts, COMPARED_WITH)
    for index in range(wanted):
        if shutil.disk_usage(work).free < SPARE + 4 * size:  # the merged one and some room
            break
        folders.append(work / f"adapter-{index}")
        write_adapter(folders[-1], layers, index, shared)
        size = (folders[-1] / "adapter_model.safetensors").stat().st_size
        print(f"\radapters written: {index + 1} of {wanted}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return folders, size, wanted


def measure(
    folders: list[Path], out: Path, method: str, density: float | None, threshold: int | None
) -> dict[str, Any]:
    """One merge in a process of its own."""
    malloc = {} if threshold is None else {"MALLOC_MMAP_THRESHOLD_": str(threshold)}
    request = json.dumps([method, density, str(out), *map(str, folders)])
    command = [sys.executable, "-c", MEASURE, request]
    done = subprocess.run(command, env=os.environ | malloc, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout)
    shutil.rmtree(out)
    return {"adapters": len(folders), "bytes": found["peak"] - found["before"], "seconds": found["seconds"]}


def slope(rows: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Least squares of `key` over the number of adapters: what the merge takes, and what each one adds."""
    import numpy

    xs = numpy.array([row["adapters"] for row in rows], dtype=float)
    ys = numpy.array([row[key] for row in rows], dtype=float)
    each, fixed = numpy.polyfit(xs, ys, 1)
    left = float(numpy.sum((ys - each * xs - fixed) ** 2))
    spread = float(numpy.sum((ys - ys.mean()) ** 2))
    return {"fixed": float(fixed), "each": float(each), "r_squared": 1 - left / spread if spread else 1.0}


def write_page(document: dict[str, Any], path: Path) -> None:
    """The two curves of every method, as a self-contained page."""
    from neurolora.report.figures import growth

    methods = document["methods"].items()
    memory = {name: [(row["adapters"], row["bytes"] / 1e6) for row in one["rows"]] for name, one in methods}
    seconds = {name: [(row["adapters"], row["seconds"]) for row in one["rows"]] for name, one in methods}
    pictures = [
        growth("Peak memory of a merge", "adapters", "MB above what is imported", memory),
        growth("Time of a merge", "adapters", "seconds", seconds),
    ]
    about = (
        f"{document['layers']} layers of the Llama-3-8B shape, {document['adapter_bytes'] / 1e6:.1f} MB each"
    )
    write_pictures("Merging many adapters", about, pictures, path)


def main() -> None:
    from neurolora.files import write_json
    from neurolora.provenance import environment

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, help="folder for the adapters (by default a temporary one)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument(
        "--methods", nargs="+", default=["linear", "ties"], choices=["linear", "ties", "dare_ties"]
    )
    parser.add_argument("--mmap-threshold", type=int, help="bytes from which glibc gives memory back at once")
    arguments = parser.parse_args()
    if arguments.work is not None:
        arguments.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        work = Path(folder)
        folders, size, wanted = write_adapters(work, arguments.layers, arguments.counts)
        counts = sorted({COMPARED_WITH, *(count for count in arguments.counts if count <= len(folders))})
        methods: dict[str, Any] = {}
        for method in arguments.methods:
            density = None if method == "linear" else 0.5
            threshold = arguments.mmap_threshold
            rows = [measure(folders[:n], work / "merged", method, density, threshold) for n in counts]
            three = next(row["bytes"] for row in rows if row["adapters"] == COMPARED_WITH)
            methods[method] = {
                "rows": rows,
                "memory": slope(rows, "bytes"),
                "time": slope(rows, "seconds"),
                "most_over_three": rows[-1]["bytes"] / three,
            }
    document = {
        "layers": arguments.layers,
        "adapter_bytes": size,
        "mmap_threshold": arguments.mmap_threshold,
        "left_out_for_want_of_disk": wanted - len(folders),
        "methods": methods,
        "environment": environment(),
    }
    write_json(arguments.out, document)
    write_page(document, arguments.out.with_suffix(".html"))
    print(json.dumps(methods, indent=2))


if __name__ == "__main__":
    main()
