"""Code that loads a promoted folder and runs inside it: for transformers, peft and this project."""

import shlex

from gpt2core.config import OWN_TASKS, RunConfig
from gpt2core.decoding import resolved
from gpt2core.distill.generator import REWRITE
from gpt2core.model_folder import Format
from gpt2core.tasks import TASKS
from gpt2core.tasks.paraphrase import PROMPT

PROMPTS = {
    "sst": "a fine film , and a long one .",
    "cfimdb": "a fine film , and a long one .",
    "paraphrase": PROMPT.format("How do I learn to swim?", "What is the best way to learn swimming?"),
    "classify": "The text to classify.",
    "generate": "The prompt.\n",
    "text": "The beginning of a text",
    "rewriting": REWRITE.format("The weather was fine."),
}
SONNET = "Shall I compare thee to a summer's day?\n"

#: The keys of each decoding strategy -> their names in transformers' `generate`, which lacks the other strategies.
SAMPLING = {
    "greedy": {},
    "top-k": {"temperature": "temperature", "top_k": "top_k"},
    "top-p": {"temperature": "temperature", "top_p": "top_p"},
    "top-k-p": {"temperature": "temperature", "top_k": "top_k", "top_p": "top_p"},
    "min-p": {"temperature": "temperature", "min_p": "min_p"},
    "typical": {"temperature": "temperature", "typical_p": "typical_p"},
    "eta": {"temperature": "temperature", "epsilon": "eta_cutoff"},
    "beam": {"num_beams": "num_beams", "length_penalty": "length_penalty", "beam_early_stopping": "early_stopping"},
}


def generation(config: RunConfig) -> tuple[dict[str, object], bool]:
    """Return arguments of transformers' `generate`, and False if it lacks the run's strategy, so that they are greedy."""
    decoding = resolved(config.decoding_config)
    names = SAMPLING.get(decoding.strategy)
    draws = names is not None and "temperature" in names
    values: dict[str, object] = {"do_sample": draws}
    if draws and "top_k" not in (names or {}):
        values["top_k"] = 0  # the default of transformers is 50
    values |= {theirs: getattr(decoding, ours) for ours, theirs in (names or {}).items()}
    if decoding.repetition_penalty != 1:
        values["repetition_penalty"] = decoding.repetition_penalty
    if decoding.no_repeat_ngram:
        values["no_repeat_ngram_size"] = decoding.no_repeat_ngram
    return values | {"max_new_tokens": decoding.max_new_tokens}, names is not None


def python_code(config: RunConfig, format: Format) -> str:
    """Return Python code that loads the folder and uses it once."""
    classes = TASKS[config.task].classes(config)
    kind = "SequenceClassification" if classes else "CausalLM"
    lines = ['folder = "."  # this folder, or its name on the Hugging Face hub']
    if format == "adapter":
        lines[:0] = [f"from peft import AutoPeftModelFor{kind}", "from transformers import AutoTokenizer", ""]
        count = f", num_labels={classes}" if classes else ""
        lines.append(f"model = AutoPeftModelFor{kind}.from_pretrained(folder{count})")
        lines.append('base = model.peft_config["default"].base_model_name_or_path')
        lines.append("tokenizer = AutoTokenizer.from_pretrained(base)")
    else:
        lines[:0] = [f"from transformers import AutoModelFor{kind}, AutoTokenizer", ""]
        lines.append(f"model = AutoModelFor{kind}.from_pretrained(folder)")
        lines.append("tokenizer = AutoTokenizer.from_pretrained(folder)")
    lines.append(f'inputs = tokenizer({_prompt(config)!r}, return_tensors="pt")')
    if not classes:
        return "\n".join([*lines, *_generate(config)])
    names = list(TASKS[config.task].class_names(config))
    return "\n".join([*lines, f"names = {names!r}", "print(names[int(model(**inputs).logits.argmax())])"])


def _generate(config: RunConfig) -> list[str]:
    if config.task == "paraphrase":  # a cloze: the next token is the answer
        return ["print(tokenizer.decode(model(**inputs).logits[0, -1].argmax()))"]
    values, same = generation(config)
    arguments = ", ".join(f"{name}={value!r}" for name, value in values.items())
    warning = f"# Scored with {config.decoder} decoding, which transformers does not have: greedy here."
    return [
        *([] if same else [warning]),
        f"output = model.generate(**inputs, {arguments})",
        "print(tokenizer.decode(output[0], skip_special_tokens=True))",
    ]


def commands(config: RunConfig) -> str:
    """Return commands of this project, to run in the folder."""
    own = config.task in OWN_TASKS
    data = " --train DATA" if own else " --data-dir DATA" if config.data_dir else ""
    lines = [f"gpt2-search evaluate --checkpoint .{data}"]
    if TASKS[config.task].classes(config) or config.task == "paraphrase":
        lines.append(f"gpt2-search predict --checkpoint . --out predictions.csv{' --test DATA' if own else data}")
    else:
        prompt = _prompt(config).replace("\n", "\\n")
        lines.append(f"gpt2-search generate --checkpoint . --prompt {shlex.quote(prompt)}")
    return "\n".join(f"$ {line}" for line in lines)


def _prompt(config: RunConfig) -> str:
    return PROMPTS.get(config.task, SONNET)
