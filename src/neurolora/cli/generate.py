"""`neurolora generate`: continue prompts with an adapter or a model.

Room: cli. It reads options and prompts, loads, calls `neurolora.evaluation.generate_completions`, prints.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurolora.cli.console import messages, print_json
from neurolora.cli.evaluate import BaseModel, Device, Dtype, Mismatch, describe_source
from neurolora.errors import ConfigError, DataError, explain

if TYPE_CHECKING:
    from neurolora.evaluation.decoding import Completion, DecodingSettings
    from neurolora.evaluation.loading import Loaded

Adapter = Annotated[
    str, typer.Argument(metavar="ADAPTER", help="Folder or hub name of an adapter or a plain model; `world`.")
]
Prompts = Annotated[list[str] | None, typer.Argument(metavar="[PROMPT]...", help="Texts to continue.")]
PromptFile = Annotated[
    Path | None,
    typer.Option("--prompt-file", metavar="FILE", help="One prompt a line; - is the standard input."),
]
Template = Annotated[
    bool,
    typer.Option(
        "--apply-template",
        help="Wrap each prompt in the template that the adapter was trained with. A JSON object is a row.",
    ),
]
NewTokens = Annotated[int, typer.Option("--max-new-tokens", help="At most so many tokens each.")]
DoSample = Annotated[bool, typer.Option("--do-sample", help="Draw tokens instead of taking the likeliest.")]
Temperature = Annotated[float | None, typer.Option("--temperature", help="Needs --do-sample.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Needs --do-sample.")]
TopK = Annotated[int | None, typer.Option("--top-k", help="Needs --do-sample.")]
Beams = Annotated[int, typer.Option("--num-beams", help="Beam search with so many beams.")]
Penalty = Annotated[float | None, typer.Option("--repetition-penalty", help="Above 1: repeat less.")]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="End at this text, cut off; repeatable.")]
Seed = Annotated[int, typer.Option("--seed", help="Of --do-sample.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Prompts at once.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Without the key-value cache: slow, same text.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def generate_command(
    adapter: Adapter,
    prompts: Prompts = None,
    prompt_file: PromptFile = None,
    apply_template: Template = False,
    max_new_tokens: NewTokens = 64,
    do_sample: DoSample = False,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    num_beams: Beams = 1,
    repetition_penalty: Penalty = None,
    stop: Stop = None,
    seed: Seed = 0,
    batch_size: BatchSize = 8,
    no_cache: NoCache = False,
    device: Device = None,
    dtype: Dtype = None,
    base_model: BaseModel = None,
    allow_base_mismatch: Mismatch = False,
    as_json: AsJson = False,
) -> None:
    """Continue prompts with an adapter (unmerged, on its base) or a plain model.

    The completions go to stdout, one after the other in the order of the prompts, and nothing else does.
    """
    texts = read_prompts(prompts, prompt_file)
    from neurolora.evaluation import DecodingSettings, load_for_inference

    settings = DecodingSettings(
        max_new_tokens=max_new_tokens, do_sample=do_sample, temperature=temperature, top_p=top_p, top_k=top_k,
        num_beams=num_beams, repetition_penalty=repetition_penalty, use_cache=not no_cache,
        stop=tuple(stop or ()), seed=seed,
    )  # fmt: skip
    loaded = load_for_inference(adapter, base_model, dtype, device, allow_base_mismatch)
    start = time.perf_counter()
    found = complete_texts(loaded, texts, settings, batch_size, apply_template)
    seconds = time.perf_counter() - start
    shortened = sum(one.shortened > 0 for one in found)
    if shortened:
        messages().print(f"warning: {shortened} prompts lost tokens on their left to fit the model's window")
    if as_json:
        print_json(
            _document(texts, found, settings, seconds) | {"source": describe_source(adapter, base_model)}
        )
    else:
        _print_completions(texts, found)


def read_prompts(prompts: list[str] | None, prompt_file: Path | None) -> list[str]:
    """Prompts from the command line and from a file, a line each; empty lines are left out.

    Raises `ConfigError` when there are none, `DataError` for a file that cannot be read.
    """
    texts = list(prompts or [])
    if prompt_file is not None:
        texts += [line for line in _read_text(prompt_file).splitlines() if line.strip()]
    if not texts:
        do = 'Write it after the adapter ("Once upon a time"), or give --prompt-file FILE (- for stdin)'
        raise ConfigError(explain("generate", "there is no prompt", do))
    return texts


def _read_text(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is not UTF-8"
        raise DataError(explain(f"reading {path}", found, "Save the file as UTF-8")) from error
    except OSError as error:
        found = error.strerror or str(error)
        raise DataError(explain(f"reading {path}", found, "Give a file that can be read")) from error


def complete_texts(
    loaded: Loaded, texts: list[str], settings: DecodingSettings, batch_size: int, apply_template: bool
) -> list[Completion]:
    """Completions of the texts, raw or wrapped in the adapter's template."""
    from neurolora.evaluation import generate_completions, render_prompts
    from neurolora.evaluation.classification import is_classifier
    from neurolora.tasks import encode_prompt, encode_text
    from neurolora.tasks.tokens import prefix_id

    if is_classifier(loaded.model):
        do = "Give a causal model's adapter; `neurolora eval` scores classifiers"
        raise ConfigError(explain("generate", "this model is a classifier and writes nothing", do))
    if apply_template:
        if loaded.task is None:
            do = "Leave out --apply-template and write the prompt in full"
            raise ConfigError(explain("--apply-template", "no task is saved with this model", do))
        ids = [encode_prompt(prompt, loaded.tokenizer) for prompt in render_prompts(texts, loaded.task)]
    else:
        first = prefix_id(loaded.tokenizer)
        ids = [encode_text(loaded.tokenizer, text) or [first or 0] for text in texts]
    return generate_completions(loaded.model, loaded.tokenizer, ids, settings, batch_size)


def _document(
    texts: list[str], found: list[Completion], settings: DecodingSettings, seconds: float
) -> dict[str, Any]:
    from neurolora.provenance import environment

    tokens = sum(one.tokens for one in found)
    return {
        "completions": [
            {"prompt": text, "completion": one.text, "tokens": one.tokens, "finish": one.finish}
            for text, one in zip(texts, found, strict=True)
        ],
        "settings": settings.to_dict(),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds if seconds else None,
        "environment": environment(),
    }


def _print_completions(texts: list[str], found: list[Completion]) -> None:
    """One prompt: its completion alone. Several: each under a line that says which it is."""
    for number, (text, one) in enumerate(zip(texts, found, strict=True), 1):
        if len(texts) > 1:
            sys.stdout.write(f"{'' if number == 1 else chr(10)}[{number}] {' '.join(text.split())[:70]}\n")
        sys.stdout.write(one.text.rstrip("\n") + "\n")
