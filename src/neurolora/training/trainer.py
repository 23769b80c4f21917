"""`NeuroLoraTrainer`: transformers' Trainer with two learning rates, losses apart, and whole checkpoints.

Room: training. Public. The loop, the devices and the distribution stay the Trainer's; the orthogonality loss
is added by the tuner inside the model's forward, so any other trainer gets it too.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional
from transformers import Trainer

from neurolora.errors import DivergedError, NeuroLoraError, OutputError, explain
from neurolora.training.callback import NeuroLoraCallback
from neurolora.training.checkpoints import (
    STAGING,
    clear_staging,
    latest_checkpoint,
    publish,
    rotate,
    why_not_written,
)
from neurolora.training.extra_loss import ExtraLoss, Moment
from neurolora.training.labelled import cut_to_labels, takes_positions
from neurolora.training.loss_window import LossWindow
from neurolora.training.losses import add_missing_orthogonality, last_losses, step_share, step_tokens
from neurolora.training.optim import GATE_LEARNING_RATE, create_optimizer_groups, learning_rates
from neurolora.tuner.hooks import SCALE

STATE_FILE = "trainer_state.json"
WINDOW_FILE = "loss_window.json"
ARGUMENTS_PICKLE = "training_args.bin"


class NeuroLoraTrainer(Trainer):
    """A `Trainer` for routed adapters (and, unchanged, for any other model).

    `args.learning_rate` is B's rate, `gate_learning_rate` the gate's; both follow one schedule.
    `extra_losses` (`extra_loss.py`) are added to the task's loss and logged apart: silence, for example.
    Logits are computed only where a label is compared (`labelled.py`), unless something else reads them.
    It logs `loss` (the task's alone) and `orthogonality_loss` (unweighted) apart, and `eval_loss` as the mean
    over label tokens, whatever the batch size. It stops at a NaN or infinite loss or gradient with
    `DivergedError`, before anything is saved. A checkpoint appears whole or not at all; if it cannot be
    written, `OutputError` names the last good one.
    """

    def __init__(
        self,
        *args: Any,
        gate_learning_rate: float = GATE_LEARNING_RATE,
        extra_losses: Sequence[ExtraLoss] = (),
        **kwargs: Any,
    ):
        self.optimizer_cls_and_kwargs: Any
        super().__init__(*args, **kwargs)
        self.gate_learning_rate = gate_learning_rate
        self.extra_losses = tuple(extra_losses)
        self._micro_batch = 0
        self.args.logging_nan_inf_filter = False  # a NaN is an error here, not a number to be smoothed over
        self.add_callback(NeuroLoraCallback())
        self.window = LossWindow()
        self._rates: dict[str, float] = {}
        self._staging: Path | None = None
        self._eval_rows: list[Tensor] = []
        self._step_tokens: Tensor | None = None
        self._takes_positions = self._loss_shifts_labels and takes_positions(self.model)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer that the arguments name, over `create_optimizer_groups`."""
        target = self.model if model is None else model
        chosen: Any = self.optimizer_cls_and_kwargs
        if self.optimizer is None and chosen is None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, target)
            if not {"params", "model", "optimizer_dict"} & set(settings):
                rates = (self.args.learning_rate, self.gate_learning_rate, self.args.weight_decay)
                settings = {**settings, "params": create_optimizer_groups(target, *rates)}
            self.optimizer_cls_and_kwargs = (kind, settings)
        try:
            made: torch.optim.Optimizer = super().create_optimizer(target)
        finally:
            self.optimizer_cls_and_kwargs = chosen
        return made

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """The Trainer's epoch, but none after the last step: the Trainer would take one more on a resume."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """The Trainer's micro-batches of the next optimizer step; their real tokens are counted here."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._micro_batch = 0
        self._step_tokens = step_tokens(self.model, samples, device, self.accelerator.gather)
        return samples, items

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """The Trainer's loss; in training it is checked and its parts are noted.

        Each micro-batch's L is weighted by its share of the step's real tokens, so that their sum over
        micro-batches and processes is L of the whole step.
        """
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        across, steps = self._loss_factors(kwargs.get("num_items_in_batch"))
        share = step_share(inputs, self._step_tokens)
        scale = 1.0 if share is None else share * self.accelerator.num_processes * steps / across
        if share is not None:
            inputs = {**inputs, SCALE: scale}
        asked = cut_to_labels(inputs) if self._needs_few_logits(inputs, return_outputs) else inputs
        loss, outputs = super().compute_loss(model, asked, return_outputs=True, **kwargs)
        loss = across * add_missing_orthogonality(self.model, loss / across, scale)
        value = float(loss.detach())
        self._check_finite(value, "loss")
        self._note_losses(value / across, across / steps)
        loss = self._with_extra_losses(loss, inputs, outputs, steps)
        return (loss, outputs) if return_outputs else loss

    def _needs_few_logits(self, inputs: dict[str, Any], return_outputs: bool) -> bool:
        """Whether nothing but the model's own loss will look at the logits."""
        outside = self.label_smoother is not None or self.compute_loss_func is not None or return_outputs
        plain = isinstance(inputs.get("labels"), Tensor) and "shift_labels" not in inputs
        step = self.state.global_step
        return (
            self._takes_positions
            and plain
            and not outside
            and not any(
                getattr(extra, "reads_outputs", True) for extra in self.extra_losses if extra.is_due(step)
            )
        )

    def _with_extra_losses(self, loss: Tensor, inputs: dict[str, Any], outputs: Any, steps: int) -> Tensor:
        """`loss` and the weighted extra losses, each of which counts once a step, whatever the accumulation.

        Their forwards go past any wrapper for distribution: one backward serves all losses, and what the
        wrapper does to the gradients there makes each the mean over processes.
        """
        step, micro_batch = self.state.global_step, self._micro_batch
        self._micro_batch += 1
        due = [extra for extra in self.extra_losses if extra.is_due(step)]
        if not due:
            return loss
        place = (self.args.seed, step, micro_batch, self.accelerator.process_index)
        moment = Moment(*place, inputs, outputs, self._collate)
        share = 1 / self.current_gradient_accumulation_steps
        for extra in due:
            with self.compute_loss_context_manager():
                found = extra(self.model, moment)
            value = float(found.detach())
            self._check_finite(value, f"{extra.name} loss")
            self.window.add_extra(extra.name, value, share)
            loss = loss + (extra.weight * steps * share * found).to(loss)
        return loss

    def _collate(self, rows: list[Any]) -> dict[str, Any]:
        """Rows as a batch on the model's device."""
        batch: dict[str, Any] = self._prepare_inputs(self.data_collator(rows))
        return batch

    def _loss_factors(self, items: Any) -> tuple[int, int]:
        """What the Trainer multiplies and what it divides the model's loss with before it goes backward."""
        own = self.compute_loss_func is not None
        counted = items is not None and (self.model_accepts_loss_kwargs or own)
        across = self.accelerator.num_processes if counted and self.args.average_tokens_across_devices else 1
        scaled = getattr(self, "loss_is_scaled_for_ga", None)
        if scaled is None:
            scaled = own or (self.model_accepts_loss_kwargs and items is not None)
        return across, 1 if scaled else self.current_gradient_accumulation_steps

    def _note_losses(self, total: float, factor: float) -> None:
        """Add this micro-batch to the window: what it adds to the step's task loss and to its L."""
        parts = last_losses(self.model)
        if parts is None:
            self.window.add(total * factor, None)
        else:
            L = parts.orthogonality
            self.window.add(parts.task * factor, None if L is None else L * parts.scale * factor)

    def _check_finite(self, value: float, what: str) -> None:
        if math.isfinite(value):
            return
        good = latest_checkpoint(Path(self.args.output_dir))
        kept = f"The last good checkpoint is {good}" if good else "No checkpoint was written before"
        raise DivergedError(
            explain(
                f"training step {self.state.global_step + 1}",
                f"the {what} is {value}, so training stopped and saved nothing",
                f"{kept}. Try a lower learning rate, more warmup, or another precision, and look at the data",
            )
        )

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The Trainer's gradient norm, checked; under fp16 the loss scaler deals with overflows itself."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and getattr(self.accelerator, "scaler", None) is None:
            self._check_finite(float(norm), "gradient's norm")
        return norm

    def _get_learning_rate(self) -> float:
        """The rate of B; both rates of this step are kept for the log."""
        self._rates = learning_rates(self.optimizer.param_groups)
        return self._rates.get("learning_rate", self._rates.get("gate_learning_rate", 0.0))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with the losses apart and both learning rates."""
        if "loss" in logs:
            logs = {
                **logs,
                **self.window.drain(self.state.global_step, self._mean_over_processes),
                **self._rates,
            }
        super().log(logs, start_time)

    def _mean_over_processes(self, value: float) -> float:
        if self.accelerator.num_processes == 1:
            return value
        kind = torch.float32 if self.args.device.type == "mps" else torch.float64
        every = self.accelerator.gather(torch.tensor([value], dtype=kind, device=self.args.device))
        return float(every.mean())

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        """The Trainer's step; of a language model the loss of each row is kept, repeated rows left out."""
        if not (prediction_loss_only and self._loss_shifts_labels and "labels" in inputs):
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        loss, logits, labels = super().prediction_step(model, inputs, False, ignore_keys)
        found = row_losses(logits[0] if isinstance(logits, tuple) else logits, labels)
        self._eval_rows.append(self.accelerator.gather_for_metrics(found).double().cpu().sum(dim=0))
        return loss, None, None

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's loop, with the loss as the mean over label tokens instead of over batches."""
        self._eval_rows = []
        result = super().evaluation_loop(*args, **kwargs)
        name = f"{kwargs.get('metric_key_prefix', 'eval')}_loss"
        if self._eval_rows and name in result.metrics:
            loss, tokens = torch.stack(self._eval_rows).sum(dim=0).tolist()
            result.metrics[name] = loss / max(tokens, 1)
        return result

    def _get_output_dir(self, trial: Any) -> str:
        """Where checkpoints go: while one is written, the staging folder."""
        return str(self._staging) if self._staging is not None else str(super()._get_output_dir(trial))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write the checkpoint aside, then give it its name; see `checkpoints`."""
        run_folder = Path(super()._get_output_dir(trial))
        staged = run_folder / STAGING / f"checkpoint-{self.state.global_step}"
        try:
            self._on_main(clear_staging, run_folder)
            self._staging = staged.parent
            super()._save_checkpoint(model, trial)
            self._on_main(self._finish_checkpoint, staged, run_folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                clear_staging(run_folder)
            if isinstance(error, NeuroLoraError):
                raise
            raise _cannot_save(run_folder / staged.name, error) from error
        finally:
            self._staging = None

    def _on_main(self, action: Any, *arguments: Any) -> None:
        """Do it in the process that writes, when all have come here, and let none go on before it is done."""
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            action(*arguments)
        self.accelerator.wait_for_everyone()

    def _finish_checkpoint(self, staged: Path, run_folder: Path) -> None:
        best = self.state.best_model_checkpoint
        if best and Path(best).parent == staged.parent:
            self.state.best_model_checkpoint = best = str(run_folder / Path(best).name)
            self.state.save_to_json(str(staged / STATE_FILE))
        self.window.save(staged / WINDOW_FILE)
        publish(staged, run_folder)
        rotate(run_folder, self.args.save_total_limit, protect=best)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The Trainer's save, without the pickle of the arguments, which nothing reads."""
        super()._save(output_dir, state_dict)
        (Path(output_dir or self.args.output_dir) / ARGUMENTS_PICKLE).unlink(missing_ok=True)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """With them comes what was measured but not yet logged."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.window = LossWindow.load(Path(checkpoint) / WINDOW_FILE, self.state.global_step)


def row_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the loss over each row's label tokens, and their number.

    logits (rows, length, vocabulary), labels (rows, length) int64, -100 left out -> float32 (rows, 2).
    """
    wanted = labels[:, 1:].contiguous()
    flat = logits[:, :-1].float().flatten(0, 1)
    each = functional.cross_entropy(flat, wanted.flatten(), reduction="none", ignore_index=-100)
    return torch.stack([each.view_as(wanted).sum(dim=1), wanted.ne(-100).sum(dim=1).float()], dim=1)


def _cannot_save(target: Path, error: Exception) -> OutputError:
    good = latest_checkpoint(target.parent)
    kept = f"The last good checkpoint is {good}" if good else "There is no earlier checkpoint"
    do = f"{kept}. Free some space or choose another output_dir, then go on with --resume"
    return OutputError(explain(f"saving {target}", why_not_written(error), do))
