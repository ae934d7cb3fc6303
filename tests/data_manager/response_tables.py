"""Tables of prompts and responses and of conversations, a tokenizer with a chat template, and the text of their rows."""

import json
from pathlib import Path
from typing import Any

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import TokenizerConfig
from data_manager.text.table_types import JsonDatasetConfig
from tests.data_manager.text_configs import BYTES, shared

QUESTIONS = [{"q": "1+1", "a": "2"}, {"q": "é?", "a": "ja"}, {"q": "x", "a": None}]
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": " Hello "},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "Ciao"},
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_TOKENS = {
    "eos_token": "<|end|>",
    "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
    "mask_token": "[M]",
}


def table(folder: Path, content: Any = QUESTIONS, **more: Any) -> JsonDatasetConfig:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    settings = {"template": "{q}\n{a:response}", "tokenizer": BYTES, "global_config": shared(folder), **more}
    return JsonDatasetConfig(**{"name": "tiny", "data_files": {"train": "a.jsonl"}, **settings})


def talks(folder: Path, *messages: Any, **more: Any) -> JsonDatasetConfig:
    return table(folder, [{"m": one} for one in messages], template=None, messages="m", **more)


def shown(config: Any, row: Any) -> str:
    """Return the text of a row with its responses in brackets, special tokens as <1>."""
    tokenizer: Any = DatasetManager.tokenizer(config)
    inner = getattr(getattr(tokenizer, "loaded", tokenizer), "inner", None)
    text, inside = "", False
    for token, is_response in zip(row["input_ids"], row["response_mask"], strict=True):
        text += "" if inside == bool(is_response) else "[" if is_response else "]"
        inside = bool(is_response)
        text += inner.decode([token]) if inner else tokenizer.decode([token]) or f"<{token - 256}>"
    return text + "]" * inside


def rows(config: Any) -> list[str]:
    return [shown(config, row) for row in DatasetManager.load_dataset(config)["train"]]


def chat_tokenizer(folder: Path, template: str | None, **special: Any) -> TokenizerConfig:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    made.chat_template = template
    made.save_pretrained(folder / "tokenizer")
    return TokenizerConfig(type="hugging_face", path=str(folder / "tokenizer"))
