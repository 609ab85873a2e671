"""Models that the tests share: the packaged demo model, and tiny random ones of each family."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import steelyard  # noqa: F401 (first: it switches dependencies' telemetry off)

# isort: split
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(  # a commit's tests say the same each time; `make test-random` looks for more
    "any machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="STEELYARD_TEST_RANDOM" not in os.environ,
)
settings.load_profile("any machine")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else its import asks GitHub for prices
os.environ.setdefault("LANGSMITH_TRACING", "false")
os.environ.setdefault("STEELYARD_AUDIT", "off")  # tests of the log switch it on, in a folder of their own

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@pytest.fixture(scope="session")
def smol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged model as a Hugging Face folder: read it, do not write into it."""
    from steelyard.model import resolve, to_hf

    folder = tmp_path_factory.mktemp("smol") / "model"
    to_hf(resolve("demo", "."), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_models("qwen3", tied=False)`: the folder of a random model, about 0.1 M parameters, made once.

    Further keywords go into its config (`sliding_window=8`); `shard="20KB"` cuts it into several files,
    `dtype` is that of the stored weights. Copy the folder before you change it.
    """
    made: dict[str, Path] = {}

    def make(family: str, tied: bool = True, **settings: Any) -> Path:
        key = json.dumps([family, tied, settings], sort_keys=True)
        if key not in made:
            made[key] = tmp_path_factory.mktemp(f"tiny-{family}")
            _tiny(made[key], family, tied, **settings)
        return made[key]

    return make


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer and template of the tiny models, without one: for applications over a fake engine."""
    folder = tmp_path_factory.mktemp("tokenizer")
    _tiny_tokenizer(folder)
    return folder


def _tiny(
    folder: Path,
    family: str,
    tied: bool,
    shard: str = "5GB",
    dtype: str = "bfloat16",
    seed: int = 0,
    **settings: Any,
) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    _tiny_tokenizer(folder)
    config = AutoConfig.for_model(
        family,
        **{
            "vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": tied,
            "max_position_embeddings": 512, "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2,
            "pad_token_id": 0, **settings,
        },
    )  # fmt: skip
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
    with torch.no_grad():  # norms start at 1 and biases at 0, where a mix-up would not show
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight) * (0.1 if "norm" in name else 0.3))
    model.save_pretrained(folder, max_shard_size=shard)


def _tiny_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer with a few merges: 320 ids, any text, ChatML."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=list(SPECIALS), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(["the user asks the assistant and the assistant answers"] * 4, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(CHATML)
