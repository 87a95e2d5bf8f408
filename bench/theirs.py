"""TRL's side of a case, in a process of its own: python -m bench.theirs CASE FOLDER MODEL OUT SETTINGS"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

BEST = {"precompute_ref_log_probs": True, "gradient_checkpointing": False}
"""What makes TRL fastest here. padding_free is off in this version ("temporarily unavailable")."""
DEFAULT: dict[str, Any] = {"precompute_ref_log_probs": False, "gradient_checkpointing": True}
"""TRL's own defaults of the same two."""


def main(name: str, model: str, out: str, settings: str, beta: float = 0.1) -> None:
    """Train the case and write what the stopwatch saw."""
    warnings.filterwarnings("ignore")
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from bench.cases import by_name
    from bench.material import in_our_order, set_adapter
    from bench.stopwatch import Stopwatch

    case, chosen = by_name(name), json.loads(settings)
    watch = Stopwatch(case.device)

    class Ends(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.step()

    class Recorded(DPOTrainer):
        def compute_loss(self, *arguments: Any, **named: Any) -> Any:
            loss = super().compute_loss(*arguments, **named)
            watch.loss(float(loss.detach()))
            return loss

    weights = torch.bfloat16 if chosen.pop("weights", "float32") == "bfloat16" else torch.float32
    with tempfile.TemporaryDirectory() as folder:
        arguments = DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=case.batch,
            max_steps=case.steps,
            max_length=512,
            learning_rate=case.lr,
            lr_scheduler_type="constant",
            beta=beta,
            bf16=case.precision == "bf16",
            use_cpu=case.device == "cpu",
            train_sampling_strategy="sequential",
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            **chosen,
        )
        lora = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        trainer = Recorded(
            model=AutoModelForCausalLM.from_pretrained(model, dtype=weights),
            args=arguments,
            train_dataset=Dataset.from_list(in_our_order(case)),
            processing_class=AutoTokenizer.from_pretrained(model),
            peft_config=lora if case.adapter == "lora_qv" else None,
            callbacks=[Ends()],
        )
        set_adapter(trainer.model)
        trainer.train()
    watch.write(Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:5], *map(float, sys.argv[5:]))
