"""What parents must have in common before they are merged: every check a row, all problems in one message.

Room: merging. A row with `forcible` can be overridden by its name; what the merged adapter then is, is the
first parent's. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from neurolora.errors import AdapterError, ConfigError, FingerprintMismatchError, explain
from neurolora.merging import differences as other
from neurolora.merging.completeness import MOST_SHOWN
from neurolora.merging.differences import Sources

HEADS = "heads"


@dataclass(frozen=True)
class Check:
    """One thing that must be the same. find: what differs, in sentences. do: what to do about it."""

    name: str
    find: Callable[[Sources], list[str]]
    do: str
    forcible: bool = False


@dataclass(frozen=True)
class Verdict:
    """What the checks have found.

    problems: lines that forbid the merge. forced: names of checks that failed and were overridden, with what
    they found in `overridden`. notes: what a reader should know. left_out: keys of heads that are not merged.
    """

    problems: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    forced: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    left_out: frozenset[str] = frozenset()

    def require(self) -> None:
        """Raises FingerprintMismatchError if A or the base differ, else AdapterError if anything does."""
        if not self.problems:
            return
        kind = FingerprintMismatchError if {"A", "base"} & set(self.failed) else AdapterError
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        raise kind(f"merging adapters: they do not fit together{lines}\nNothing has been written.")


def examine(sources: Sources, names: Iterable[str], force: Iterable[str] = ()) -> Verdict:
    """Run the checks of these names on opened adapters.

    Raises ConfigError for a name in `force` that is no check, or one that cannot be overridden.
    """
    forced, wanted = _allowed(force), set(names)
    found: list[tuple[Check, list[str]]] = []
    for check in CHECKS:
        if check.name not in wanted:
            continue
        sentences = check.find(sources)
        found += [(check, sentences)] if sentences else []
        if sentences and check.name in STOPPING:
            break  # what comes after reads tensors that are not there
    failed = [(check, lines) for check, lines in found if check.name not in forced]
    overridden = [(check, lines) for check, lines in found if check.name in forced]
    leave_heads = any(check.name == HEADS for check, _ in overridden)
    return Verdict(
        problems=tuple(_told(check, line) for check, lines in failed for line in _first(lines)),
        failed=tuple(check.name for check, _ in failed),
        forced=tuple(check.name for check, _ in overridden),
        overridden=tuple(f"{check.name}: {line}" for check, lines in overridden for line in _first(lines)),
        notes=tuple(other.notes(sources)),
        left_out=frozenset(sources[0].others) if leave_heads else frozenset(),
    )


def _allowed(force: Iterable[str]) -> set[str]:
    forced = {name.strip() for name in force}
    may = [check.name for check in CHECKS if check.forcible]
    for name in sorted(forced - set(may)):
        known = name in {check.name for check in CHECKS}
        found = "that cannot be overridden" if known else "there is no such check"
        raise ConfigError(explain(f"force {name!r}", found, f"Only {', '.join(may)} can"))
    return forced


def _told(check: Check, line: str) -> str:
    also = f", or override it by the name `{check.name}`" if check.forcible else ""
    return f"{check.name}: {line}. {check.do}{also}"


def _first(lines: list[str]) -> list[str]:
    more = [f"and {len(lines) - MOST_SHOWN} more"] if len(lines) > MOST_SHOWN else []
    return lines[:MOST_SHOWN] + more


RETRAIN = "Merge adapters that were trained alike"
CHECKS = (
    Check("method", other.kinds, "Adapters of NeuroLoRA and FlyLoRA can be merged, or adapters of LoRA"),
    Check("complete", other.missing_tensors, "The file is incomplete: save or copy it again"),
    Check("modules", other.modules, RETRAIN),
    Check("ranks", other.settings("r", "blocks"), RETRAIN),
    Check("block_ranks", other.block_ranks, RETRAIN),
    Check("gate", other.gates, RETRAIN),
    Check("shapes", other.shapes, RETRAIN),
    Check("A", other.projections, "For adapters of different A use merge_method: concat"),
    Check("top_k", other.settings("top_k"), RETRAIN, forcible=True),
    Check("routing", other.settings("routing"), RETRAIN, forcible=True),
    Check("base", other.bases, "Merge adapters of one base", forcible=True),
    Check("tokenizer", other.tokenizers, "Merge adapters of one tokenizer", forcible=True),
    Check(HEADS, other.heads, "Each task needs its own head: leave them out and keep them", forcible=True),
)
#: Checks after whose failure the others cannot be made.
STOPPING = ("method", "complete")
