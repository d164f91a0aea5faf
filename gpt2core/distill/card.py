"""The data card of a set of generated pairs: models, settings, counts by filter, examples, diversity, and how to load it.

It is made from the manifest and the files alone, without times and paths, so that equal data has equal cards. It starts with
the front matter of a Hugging Face dataset.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

Entry = Mapping[str, Any]  # a round of the manifest
Pairs = Sequence[Mapping[str, Any]]
SAMPLE = 250  # pairs for the diversity measures: self-BLEU compares each sentence with each
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
MEANINGS = {
    "length": "one sentence is much longer than the other",
    "forward": "the first does not entail the second",
    "backward": "the second does not entail the first",
    "duplicate": "a better pair of the same context says the same",
    "numbers": "the sentences name different numbers",
    "rouge": "the sentences share too many words",
    "critic": "the critic's score is too low",
    "exact": "another context has the same pair",
    "near": "another context has nearly the same pair",
}


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Means over all accepted pairs, and the diversity of `sentences` of them: 0 to 1, self-BLEU 0 to 100."""

    critic: float
    rouge_l: float
    sentences: int
    distinct_1: float
    distinct_2: float
    self_bleu: float


def measure(tables: Iterable[pa.Table]) -> Measures | None:
    """Return measures of the accepted pairs in some tables, or None if there are none; diversity is that of a fixed sample."""
    from gpt2core.metrics.diversity import distinct_n, self_bleu

    count, critic, rouge = 0, 0.0, 0.0
    sample: list[tuple[bytes, str, str]] = []
    for table in tables:
        count += len(table)
        critic += pc.sum(table["critic"]).as_py() or 0.0
        rouge += pc.sum(table["rouge_l"]).as_py() or 0.0
        rows = table.select(["id", "sentence1", "sentence2"]).to_pylist()
        sample += [(hashlib.sha256(row["id"].encode()).digest(), row["sentence1"], row["sentence2"]) for row in rows]
        sample = sorted(sample)[:SAMPLE]
    if not count:
        return None
    texts = [text for _, *pair in sample for text in pair]
    return Measures(
        critic=critic / count,
        rouge_l=rouge / count,
        sentences=len(texts),
        distinct_1=distinct_n(texts, 1),
        distinct_2=distinct_n(texts, 2),
        self_bleu=self_bleu(texts),
    )


def filter_rows(entry: Entry) -> list[tuple[str, int, int]]:
    """Return each filter of a round in order, with how many pairs it rejected and how many are left after it."""
    left = entry["pairs"]["made"]
    rows = []
    for name, rejected in entry["pairs"]["reasons"].items():
        if name != "accepted":
            left -= rejected
            rows.append((name, rejected, left))
    return rows


def share(part: int, whole: int) -> str:
    """Return a share in percent, with both counts."""
    return f"{100 * part / max(1, whole):.2f}% ({part:,} of {whole:,})"


def card(rounds: Sequence[Entry], measures: Measures | None, examples: Sequence[Mapping[str, Pairs]]) -> str:
    """Return the card as Markdown. `examples` holds pairs of each round by reason; those that were accepted as `accepted`."""
    sizes = {part: sum(entry[part] for entry in rounds) for part in ("accepted", "negatives")}
    critic = ", ".join(f"{key} {value}" for key, value in rounds[0]["critic"].items())
    warning = f" **A stand-in: {rounds[0]['stand_in']}.**" if rounds[0]["stand_in"] else ""
    parts = [
        _front_matter(sizes),
        "# Paraphrases by Impossible Distillation\n",
        f"{sizes['accepted']:,} pairs of generated sentences that the critic and the filters accepted as paraphrases "
        f"(`accepted/`, `is_duplicate` 1), and {sizes['negatives']:,} pairs that share many words but differ in meaning "
        "(`negatives/`, `is_duplicate` 0). The method is that of Jung et al. 2023, arXiv 2305.16635.\n",
        f"Critic: {critic}.{warning}\n",
        *(_round(entry, pairs) for entry, pairs in zip(rounds, examples, strict=True)),
        "## Diversity and similarity\n",
        _measures(measures),
        _loading(sizes),
    ]
    return "\n".join(parts)


def _front_matter(sizes: Mapping[str, int]) -> str:
    whole = sum(sizes.values())
    lines = ["---", "language:", "- en", "pretty_name: Paraphrases by Impossible Distillation", "task_categories:"]
    lines += ["- text-classification", "tags:", "- paraphrase", "- synthetic", "size_categories:"]
    lines += [f"- {next((name for limit, name in SIZES if whole < limit), 'n>1M')}"]
    configs = {"default": ["accepted"], "detection": ["accepted", "negatives"]}
    filled = {name: [part for part in parts if sizes[part]] for name, parts in configs.items()}
    if any(filled.values()):
        lines.append("configs:")
    for name, parts in filled.items():
        if parts:
            lines += [f"- config_name: {name}", "  data_files:", "  - split: train", "    path:"]
            lines += [f"    - {part}/*.parquet" for part in parts]
    return "\n".join([*lines, "---", ""])


def _round(entry: Entry, examples: Mapping[str, Pairs]) -> str:
    pairs = entry["pairs"]["made"]
    contexts, candidates, bad = entry["contexts"], entry["candidates"], entry["quarantined"]
    verb = "rewrites" if entry["rewrite"] else "continues"
    unusable = {name: count for name, count in candidates["reasons"].items() if name != "usable"}
    usable = share(candidates["reasons"].get("usable", 0), candidates["made"])
    settings = (
        [(f"`{key}`", str(value)) for key, value in entry[part].items()] for part in ("generation", "thresholds")
    )
    lines = [
        f"## Round {entry['round']}\n",
        f"- Model that writes contexts: `{entry['model']}`, digest `{entry['digests']['model']}`",
        f"- Model that {verb} them: `{entry['generator']}`, digest `{entry['digests']['generator']}`",
        f"- Prefixes: source `{entry['generation']['source']}`, digest `{entry['digests']['prefixes']}`",
        f"- Digest of the accepted pairs: `{entry['digest']}`\n",
        "### Settings\n",
        "| generation | | | thresholds | |",
        "|---|---|---|---|---|",
        *(f"| {a} | {b} | | {c} | {d} |" for (a, b), (c, d) in zip_longest(*settings, fillvalue=("", ""))),
        "\n### Counts\n",
        f"- Contexts: {contexts['made']:,} of {contexts['asked']:,} requested",
        f"- Candidates: {candidates['made']:,}; usable {usable}"
        + "".join(f"; {name} {count:,}" for name, count in unusable.items()),
        f"- Quarantined rows: {bad['rows']:,}"
        + "".join(f"; {count:,} times: {error}" for error, count in bad["errors"].items()),
        f"- Pairs: {pairs:,}; accepted {share(entry['accepted'], pairs)}\n",
        "| filter | why | rejected | of all pairs | left |",
        "|---|---|---:|---:|---:|",
        *(
            f"| {name} | {MEANINGS.get(name, '')} | {rejected:,} | {100 * rejected / max(1, pairs):.2f}% | {left:,} |"
            for name, rejected, left in filter_rows(entry)
        ),
        "\n### Examples\n",
        *(_examples(reason, rows) for reason, rows in examples.items()),
    ]
    return "\n".join(lines)


def _examples(reason: str, pairs: Pairs) -> str:
    """Return pairs verbatim, in a code block that no character of theirs can end."""
    heading = "Accepted" if reason == "accepted" else f"Rejected by {reason}: {MEANINGS.get(reason, '')}"
    lines = [
        f"1: {pair['sentence1']}\n2: {pair['sentence2']}\n   critic {pair['critic']:.3f}, ROUGE-L {pair['rouge_l']:.3f}"
        for pair in pairs
    ]
    return "\n".join([f"{heading}\n", "```text", *lines, "```\n"])


def _measures(measures: Measures | None) -> str:
    if measures is None:
        return "No pair was accepted, so there is nothing to measure.\n"
    return (
        f"Mean of all accepted pairs: critic {measures.critic:.3f}, ROUGE-L {measures.rouge_l:.3f}.\n"
        f"Of {measures.sentences} of their sentences: distinct-1 {measures.distinct_1:.3f}, distinct-2 "
        f"{measures.distinct_2:.3f}, self-BLEU {measures.self_bleu:.3f}.\n"
    )


def _loading(sizes: Mapping[str, int]) -> str:
    if not sizes["accepted"]:
        return "## Loading\n\nThere is nothing to load: lower `tau`, or generate more contexts.\n"
    return """## Loading

In this folder:

```python
import datasets, pandas, pyarrow.dataset
datasets.load_dataset("parquet", data_files="accepted/*.parquet", split="train")
pandas.read_parquet("accepted")
pyarrow.dataset.dataset("accepted").to_table()
```

`course.tsv` has all pairs, accepted and negatives, in the columns of the course's Quora files. The scores are those of the critic
above. `context`, `round`, `first` and `second` say which candidates of which context form a pair; -1 is the context itself.
`manifest.json` names the files that each round was made from. Rows that could not be used are in `quarantine/`.
"""
