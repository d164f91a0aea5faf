"""The data card of a set of generated pairs: its models and settings, counts by filter, examples, diversity, how to load it.

Made from the manifest and the files alone: no times and no places, so that equal data has equal cards. It starts with the
front matter of a dataset of the Hugging Face hub.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

Entry = Mapping[str, Any]  # a round of the manifest
SAMPLE = 250  # pairs of which diversity is measured: self-BLEU compares each sentence with each
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
MEANINGS = {
    "length": "one sentence is much longer than the other",
    "forward": "the first does not entail the second",
    "backward": "the second does not entail the first",
    "duplicate": "a better pair of the same context says the same",
    "numbers": "the two name different numbers",
    "rouge": "the two say it in the same words",
    "critic": "the critic is not sure enough",
    "exact": "another context has the same pair",
    "near": "another context has nearly the same pair",
}


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What accepted pairs are like: means of all; diversity (0 to 1, self-BLEU 0 to 100) of `sentences` of them."""

    critic: float
    rouge_l: float
    sentences: int
    distinct_1: float
    distinct_2: float
    self_bleu: float


def measure(tables: Iterable[pa.Table]) -> Measures | None:
    """Measure accepted pairs, table by table; None where there are none. The sample is that of the lowest hashes."""
    from gpt2core.metrics.diversity import distinct_n, self_bleu

    count, critic, rouge = 0, 0.0, 0.0
    sample: list[tuple[bytes, str, str]] = []
    for table in tables:
        count += len(table)
        critic += pc.sum(table["critic"]).as_py() or 0.0
        rouge += pc.sum(table["rouge_l"]).as_py() or 0.0
        rows = table.select(["id", "sentence1", "sentence2"]).to_pylist()
        sample += [(hashlib.sha256(r["id"].encode()).digest(), r["sentence1"], r["sentence2"]) for r in rows]
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
    """Each filter of a round in order, how many pairs it rejected, and how many passed it and all before."""
    left = entry["pairs"]["made"]
    rows = []
    for name, rejected in entry["pairs"]["reasons"].items():
        if name != "accepted":
            left -= rejected
            rows.append((name, rejected, left))
    return rows


def share(part: int, whole: int) -> str:
    """A share in percent, with both counts."""
    return f"{100 * part / max(1, whole):.2f}% ({part:,} of {whole:,})"


def card(
    rounds: Sequence[Entry], measures: Measures | None, examples: Sequence[Mapping[str, Sequence[Mapping[str, Any]]]]
) -> str:
    """The card as Markdown. `examples` holds for each round rows of pairs by reason, those that were accepted as `accepted`."""
    first = rounds[0]
    sizes = {part: sum(entry[part] for entry in rounds) for part in ("accepted", "negatives")}
    parts = [
        _front(sizes),
        "# Paraphrases by Impossible Distillation\n",
        f"{sizes['accepted']:,} pairs of sentences that a language model wrote and critic and filters took for paraphrases "
        f"(`accepted/`, `is_duplicate` 1), and {sizes['negatives']:,} that share many words and were rejected for their "
        "meaning (`negatives/`, `is_duplicate` 0). After Jung et al. 2023, arXiv 2305.16635.\n",
        _critic(first),
        *(_round(entry, shown) for entry, shown in zip(rounds, examples, strict=True)),
        _measured(measures),
        _loading(sizes),
    ]
    return "\n".join(parts)


def _front(sizes: Mapping[str, int]) -> str:
    whole = sum(sizes.values())
    lines = ["---", "language:", "- en", "pretty_name: Paraphrases by Impossible Distillation", "task_categories:"]
    lines += ["- text-classification", "tags:", "- paraphrase", "- synthetic", "size_categories:"]
    lines += [f"- {next((name for limit, name in SIZES if whole < limit), 'n>1M')}"]
    configs = {"default": ["accepted"], "detection": ["accepted", "negatives"]}
    there = {name: [part for part in parts if sizes[part]] for name, parts in configs.items()}
    if any(there.values()):
        lines.append("configs:")
    for name, parts in there.items():
        if parts:
            lines += [f"- config_name: {name}", "  data_files:", "  - split: train", "    path:"]
            lines += [f"    - {part}/*.parquet" for part in parts]
    return "\n".join([*lines, "---", ""])


def _critic(entry: Entry) -> str:
    named = ", ".join(f"{key} {value}" for key, value in entry["critic"].items())
    warning = f" **A stand-in: {entry['stand_in']}.**" if entry["stand_in"] else ""
    return f"Critic: {named}.{warning}\n"


def _round(entry: Entry, examples: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    pairs = entry["pairs"]["made"]
    contexts, candidates, bad = entry["contexts"], entry["candidates"], entry["quarantined"]
    how = "rewrites them" if entry["rewrite"] else "continues them"
    unlike = {name: count for name, count in candidates["reasons"].items() if name != "usable"}
    usable = share(candidates["reasons"].get("usable", 0), candidates["made"])
    lines = [
        f"## Round {entry['round']}\n",
        f"- Model that writes contexts: `{entry['model']}`, digest `{entry['digests']['model']}`",
        f"- Model that {how}: `{entry['generator']}`, digest `{entry['digests']['generator']}`",
        f"- Prefixes: source `{entry['generation']['source']}`, digest `{entry['digests']['prefixes']}`",
        f"- Digest of the accepted pairs: `{entry['digest']}`\n",
        "### Settings\n",
        "| generation | | | thresholds | |",
        "|---|---|---|---|---|",
        *_side_by_side(entry["generation"], entry["thresholds"]),
        "\n### Counts\n",
        f"- Contexts: {contexts['made']:,} of {contexts['asked']:,} asked",
        f"- Candidates: {candidates['made']:,}, of which can be used {usable}"
        + "".join(f"; {name} {count:,}" for name, count in unlike.items()),
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
        *(_shown(reason, rows) for reason, rows in examples.items()),
    ]
    return "\n".join(lines)


def _side_by_side(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    left, right = ([(f"`{key}`", str(value)) for key, value in values.items()] for values in (one, other))
    height = max(len(left), len(right))
    left, right = (rows + [("", "")] * (height - len(rows)) for rows in (left, right))
    return [f"| {a} | {b} | | {c} | {d} |" for (a, b), (c, d) in zip(left, right, strict=True)]


def _shown(reason: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Pairs as they are, in a block that no character of theirs can end."""
    heading = "Accepted" if reason == "accepted" else f"Rejected by {reason}: {MEANINGS.get(reason, '')}"
    lines = [
        f"1: {row['sentence1']}\n2: {row['sentence2']}\n   critic {row['critic']:.3f}, ROUGE-L {row['rouge_l']:.3f}"
        for row in rows
    ]
    return "\n".join([f"{heading}\n", "```text", *lines, "```\n"])


def _measured(measures: Measures | None) -> str:
    if measures is None:
        return "## Diversity and similarity\n\nNo pair was accepted, so there is nothing to measure.\n"
    return "\n".join(
        [
            "## Diversity and similarity\n",
            f"Mean of all accepted pairs: critic {measures.critic:.3f}, ROUGE-L {measures.rouge_l:.3f}.",
            f"Of {measures.sentences} of their sentences: distinct-1 {measures.distinct_1:.3f}, distinct-2 "
            f"{measures.distinct_2:.3f}, self-BLEU {measures.self_bleu:.3f}.\n",
        ]
    )


def _loading(sizes: Mapping[str, int]) -> str:
    if not sizes["accepted"]:
        return "## Loading\n\nThere is nothing to load: lower `tau`, or make more contexts.\n"
    return """## Loading

In this folder:

```python
import datasets, pandas, pyarrow.dataset
datasets.load_dataset("parquet", data_files="accepted/*.parquet", split="train")
pandas.read_parquet("accepted")
pyarrow.dataset.dataset("accepted").to_table()
```

`course.tsv` has all pairs, accepted and negatives, in the columns of the course's Quora files. Scores are of the critic above;
`context`, `round`, `first` and `second` say which candidates of which context a pair is made of, -1 being the context itself.
`manifest.json` names the files that each round was made from; rows that could not be used are in `quarantine/`.
"""
