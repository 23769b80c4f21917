"""NeuroLoRA in TRL's SFTTrainer, which needs to know nothing about it: only the config is ours.

Runs offline on the bundled model, in about half a minute on two cores. Needs `pip install neurolora[trl]`.
"""

from __future__ import annotations

import tempfile

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

import neurolora
from neurolora.evaluation import answer_token_loss
from neurolora.tasks import TaskRequest, load_examples
from neurolora.world import bundled_model_path


def main() -> None:
    model = AutoModelForCausalLM.from_pretrained(bundled_model_path())
    tokenizer = AutoTokenizer.from_pretrained(bundled_model_path())
    examples = load_examples(TaskRequest("world-recall", limit=600), "train")
    held_out = load_examples(TaskRequest("world-recall", limit=100), "validation")
    rows = [{"prompt": one.prompt, "completion": one.completion} for one in examples]
    before = answer_token_loss(model, tokenizer, held_out, 16).value

    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=folder,
                max_steps=20,
                per_device_train_batch_size=16,
                learning_rate=2e-3,
                warmup_steps=2,
                logging_steps=5,
                max_length=256,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                bf16=False,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            # SFTTrainer has one learning rate for all; NeuroLoraTrainer, or an optimizer over
            # neurolora.create_optimizer_groups(model), has two.
            peft_config=neurolora.NeuroLoraConfig(task_type="CAUSAL_LM"),
            callbacks=[neurolora.NeuroLoraCallback()],  # needed only with load_balance_rate above 0
        )
        trainer.train()
        trainer.save_model(folder)
        model = trainer.model.eval()

    after = answer_token_loss(model, tokenizer, held_out, 16).value
    print(f"loss of an answer's token on held-out rows: {before:.3f} before, {after:.3f} after")
    assert after < before


if __name__ == "__main__":
    main()
