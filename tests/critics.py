"""Toy models of critics: a BERT or RoBERTa for natural language inference, and a run of this project's classifier."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from gpt2core.testing import toys
from gpt2core.training import train
from gpt2core.weights import load_model

#: In the order of RoBERTa: that of padding is 1.
SPECIAL = {"[CLS]": 0, "[PAD]": 1, "[SEP]": 2, "[UNK]": 3}
LABELS = {0: "entailment", 1: "neutral", 2: "contradiction"}
POSITIONS = 20


def nli_folder(path: Path, labels: Mapping[int, str] = LABELS, *, kind: str = "Bert", **options: Any) -> Path:
    """A model of that kind and a tokenizer of the toy words; its random weights depend only on how many labels there are."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(SPECIAL) + len(toys.WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=POSITIONS,
        pad_token_id=1,
        type_vocab_size=2 if kind == "Bert" else 1,
        initializer_range=0.8,  # so that scores differ
        id2label=dict(labels),
        label2id={label: number for number, label in labels.items()},
    )
    torch.manual_seed(0)
    getattr(transformers, f"{kind}ForSequenceClassification")(config).save_pretrained(path)
    _tokenizer(kind, **options).save_pretrained(path)
    return path


def _tokenizer(kind: str, pad_token: str | None = "[PAD]") -> Any:
    from transformers import PreTrainedTokenizerFast

    vocabulary = SPECIAL | {word: len(SPECIAL) + number for number, word in enumerate(toys.WORDS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    second = 1 if kind == "Bert" else 0
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair=f"[CLS] $A [SEP] $B:{second} [SEP]:{second}",
        special_tokens=[(name, SPECIAL[name]) for name in ("[CLS]", "[SEP]")],
    )
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": pad_token}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def run_folder(path: Path, task: str = "paraphrase", **changes: Any) -> Path:
    config = toys.RUN.but(task=task, model=str(toys.folder(path / "model")), epochs=1, **changes)
    for _ in train(config, load_model(config.model), toys.data(), folder=path / "run"):
        pass
    return path / "run"
