"""The sections of a training config, as frozen pydantic models: data only, with Table 5's defaults.

Room: training. Read by everything in the room; the command line builds them through `config.load_config`.
Names are those of TRL and transformers 5; `gate_learning_rate`, `silence_*` and what the tasks need are ours.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _as_list(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _no(value: Any) -> Any:
    """YAML reads a bare `no` as false."""
    return "no" if value is False else value


NameList = Annotated[list[str], BeforeValidator(_as_list)]
Strategy = Annotated[Literal["no", "steps", "epoch"], BeforeValidator(_no)]
Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """What all sections share: frozen, and nothing unknown gets in."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=(), allow_inf_nan=False
    )


class ModelSection(Section):
    """Which base model, and how it is loaded."""

    model_name_or_path: str = Field(
        min_length=1, description="folder or hub name of the base; `world` is built in"
    )
    model_revision: str | None = Field(None, description="branch, tag or commit on the hub")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "float32", description="of the base's weights; the adapter's stay float32"
    )
    attn_implementation: str | None = Field(None, description="eager, sdpa, flash_attention_2, ...")
    trust_remote_code: bool = Field(False, description="run the code that comes with a hub model")
    load_in_8bit: bool = Field(False, description="quantise the base (needs bitsandbytes)")
    load_in_4bit: bool = Field(False, description="quantise the base (needs bitsandbytes)")

    @model_validator(mode="after")
    def _one_quantisation(self) -> ModelSection:
        if self.load_in_4bit and self.load_in_8bit:
            raise ValueError("load_in_4bit and load_in_8bit exclude each other: keep one")
        return self


class DataSection(Section):
    """What is learned, and how a row becomes text."""

    task: str = Field(min_length=1, description="the task's name: world-recall, gsm8k, completion, chat, ...")
    dataset_name: str | None = Field(None, description="file, folder or hub name; the task's own if left out")
    dataset_config: str | None = Field(None, description="configuration of the hub's data set")
    prompt_template: str | None = Field(None, description="jinja2 over the row's fields")
    completion_template: str | None = Field(None, description="jinja2; only this part is learned")
    choice_template: str | None = Field(None, description="jinja2 of one candidate answer")
    columns: dict[str, str] = Field(default_factory=dict, description="our field name: name in the file")
    labels: NameList | None = Field(None, description="names of a labelled text's labels, in order")
    validation_fraction: float = Field(
        0.0, ge=0, lt=1, description="held out of train where the data have no validation split"
    )
    test_fraction: float = Field(0.0, ge=0, lt=1, description="held out where the data have no test split")
    max_length: Positive = Field(1024, description="tokens a row may have, prompt and completion together")
    overlong: Literal["shorten", "drop"] = Field("shorten", description="shorten the prompt, or drop the row")
    max_train_samples: Positive | None = Field(None, description="use only so many training rows")
    max_eval_samples: Positive | None = Field(512, description="validation rows used for eval_loss")
    dataset_test_split: str = Field("validation", description="split that eval_loss is measured on")


class TrainSection(Section):
    """Optimisation: transformers' TrainingArguments under their own names."""

    learning_rate: Rate = Field(2e-4, description="of B and of everything else that is not the gate")
    gate_learning_rate: Rate = Field(5e-4, description="of the gate")
    silence_weight: Rate = Field(
        0.0, description="of the loss that keeps the adapter quiet on silence_data; 0 = off"
    )
    silence_data: str | None = Field(
        None, description="text of no task: .txt (a text a line), .jsonl with `text`, or `world`"
    )
    silence_batch_size: Positive | None = Field(
        None, description="rows of it beside each micro-batch; half as many as the task's if left out"
    )
    silence_every: Positive = Field(1, description="optimizer steps from one listening to the next")
    per_device_train_batch_size: Positive = 16
    per_device_eval_batch_size: Positive = 16
    gradient_accumulation_steps: Positive = 4
    num_train_epochs: float = Field(3.0, gt=0)
    max_steps: int = Field(-1, description="optimizer steps; overrides num_train_epochs when positive")
    lr_scheduler_type: str = "cosine"
    lr_scheduler_kwargs: dict[str, Any] = Field(default_factory=dict)
    warmup_steps: float = Field(
        0.03,
        ge=0,
        validation_alias=AliasChoices("warmup_steps", "warmup_ratio"),
        description="below 1: a share of all steps; otherwise their number",
    )
    weight_decay: Rate = 0.01
    optim: str = "adamw_torch"
    adam_beta1: Beta = 0.9
    adam_beta2: Beta = 0.95
    adam_epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: Rate = 1.0
    bf16: bool = False
    fp16: bool = False
    tf32: bool | None = None
    gradient_checkpointing: bool = Field(
        False, validation_alias=AliasChoices("gradient_checkpointing", "activation_checkpointing")
    )
    torch_compile: bool = False
    seed: NonNegative = 42
    data_seed: NonNegative | None = Field(None, description="order of the rows; seed if left out")
    full_determinism: bool = False
    use_cpu: bool = False
    dataloader_num_workers: NonNegative = 0
    dataloader_pin_memory: bool = True
    dataloader_drop_last: bool = False
    eval_strategy: Strategy = "epoch"
    eval_steps: Positive | None = Field(
        None, description="with eval_strategy steps; logging_steps if left out"
    )
    deepspeed: str | None = Field(None, description="path of a DeepSpeed config")
    ddp_find_unused_parameters: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_name_each(cls, values: Any) -> Any:
        twice = [pair for pair in ALIASES if isinstance(values, dict) and set(pair) <= set(values)]
        if twice:
            raise ValueError("; ".join(f"{old} is another name of {new}: keep one" for old, new in twice))
        return values

    @model_validator(mode="after")
    def _one_precision(self) -> TrainSection:
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 exclude each other: keep one")
        if (self.silence_weight > 0) != (self.silence_data is not None):
            raise ValueError("silence_weight and silence_data go together: give both, or neither")
        if self.max_steps == 0 or self.max_steps < -1:
            raise ValueError(f"max_steps is {self.max_steps}: a positive number, or -1 to go by epochs")
        return self


#: (accepted name, our name)
ALIASES = (("warmup_ratio", "warmup_steps"), ("activation_checkpointing", "gradient_checkpointing"))


class EvalSection(Section):
    """Scores of whole tasks after (and before) training, under lm-eval's names; none by default."""

    tasks: NameList = Field(default_factory=list, description="tasks to score when training is done")
    split: Literal["train", "validation", "test"] = "test"
    limit: Positive | None = Field(None, description="examples of each task")
    num_fewshot: NonNegative | None = None
    batch_size: Positive = 8
    before: bool = Field(False, description="score the base too, before training")
    log_samples: bool = True
    apply_chat_template: bool = False


class OutputSection(Section):
    """Where results go, and how often."""

    output_dir: str | None = Field(None, description="the run folder; runs/<task>-<method> if left out")
    logging_steps: Positive = 10
    logging_first_step: bool = True
    save_strategy: Strategy = "steps"
    save_steps: Positive = 500
    save_total_limit: Positive | None = 2
    report_to: NameList = Field(
        default_factory=lambda: ["none"], description="trackio, tensorboard, wandb, mlflow, ..."
    )
    run_name: str | None = None
    resume_from_checkpoint: str | None = Field(None, description="a checkpoint folder, or `auto`")
