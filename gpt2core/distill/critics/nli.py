"""Natural language inference: the critic of Jung et al. 2023 (arXiv 2305.16635, section 3.3), or any other NLI model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpt2core.distill.critics.folder import critic_folder, loading, model_digest
from gpt2core.errors import ConfigError, WeightsError

#: The study's critic: RoBERTa-large trained on WANLI (Liu et al. 2022, arXiv 2201.05955).
DEFAULT = "alisawuffles/roberta-large-wanli"


class Nli:
    """Scores the probability of entailment by a transformers sequence classifier: a folder, or owner/name on the hub.

    Raises WeightsError, HubError, or ConfigError if none of its labels is entailment.
    """

    stand_in = ""

    def __init__(self, model: str | None = None) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        name = model or DEFAULT
        folder = critic_folder(name)
        with loading(folder):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            net, report = AutoModelForSequenceClassification.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        missing = ", ".join(sorted(report["missing_keys"]))  # which transformers initialises at random
        if missing:
            raise WeightsError(f"{folder}: has no weights for {missing}; choose a trained classifier")
        if self.tokenizer.pad_token is None:
            raise ConfigError(f"{folder}: its tokenizer has no padding token, so pairs cannot be batched")
        self.entailed = entailment_label(net.config.id2label, str(folder))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model: Any = net.to(self.device).train(False)
        self.limit = _limit(self.model, self.tokenizer)
        self.identity: Mapping[str, str] = {"critic": "nli", "model": name, "digest": model_digest(folder)}

    def entailment(self, premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
        """Return the probabilities (N,) that each premise entails its hypothesis, in batches of similar length.

        Raises ValueError for a pair longer than the model's limit, rather than truncate it.
        """
        import torch

        from gpt2core.tasks.classification import batches

        pairs = list(zip(premises, hypotheses, strict=True))
        order, scores = [], []
        with torch.inference_mode():
            for index in batches(self._lengths(pairs)):
                first, second = ([pairs[number][side] for number in index] for side in (0, 1))
                batch = self.tokenizer(first, second, padding=True, return_tensors="pt").to(self.device)
                probabilities = self.model(**batch).logits.double().softmax(dim=-1)
                order.append(index)
                scores.append(probabilities[:, self.entailed])
        if not scores:
            return np.zeros(0)
        in_order = np.empty(len(pairs))
        in_order[np.concatenate(order)] = torch.cat(scores).cpu().numpy()  # the host waits once, for all batches
        return in_order

    def _lengths(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        if not pairs:
            return np.zeros(0, dtype=np.int64)
        ids = self.tokenizer([first for first, _ in pairs], [second for _, second in pairs])["input_ids"]
        lengths = np.array([len(tokens) for tokens in ids])
        if lengths.max() > self.limit:
            worst = int(lengths.argmax())
            raise ValueError(
                f"The pair {pairs[worst][0][:40]!r}... has {lengths[worst]} tokens; the model reads {self.limit}"
            )
        return np.asarray(np.maximum(lengths, 1))


def entailment_label(labels: Mapping[int, str], source: str) -> int:
    """Return the output whose name in `id2label` is entailment; raise ConfigError if there is not exactly one."""
    names = {int(number): label.casefold() for number, label in labels.items()}
    positive = [
        number for number, name in names.items() if "entail" in name and "not" not in name and "non" not in name
    ]
    if len(positive) != 1 or len(labels) < 2:
        raise ConfigError(
            f"{source}: the labels are {', '.join(labels.values())}, but exactly one of at least two must be entailment; "
            "choose an NLI model, or name its labels in `id2label` of config.json"
        )
    return positive[0]


def _limit(model: Any, tokenizer: Any) -> int:
    """Return how many tokens fit. RoBERTa starts counting positions after the padding index, so fewer fit than its table has."""
    from torch import nn

    named = model.named_modules()
    tables = [part for name, part in named if name.endswith("position_embeddings") and isinstance(part, nn.Embedding)]
    room = [table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1) for table in tables]
    declared = getattr(model.config, "max_position_embeddings", None)
    return int(min([tokenizer.model_max_length, *(room or ([declared] if declared else []))]))
