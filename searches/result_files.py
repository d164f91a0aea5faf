"""The names of the files and folders that searches leave, with their content. It imports nothing heavy."""

from gpt2core.checkpoints.layout import BEST

SEARCHES = "searches"  # the folder of all searches in a storage
LEDGER, SUMMARY, REPORT, MARKDOWN = "ledger.jsonl", "summary.json", "report.html", "report.md"
TRIALS, CANDIDATES, PROMOTED, MAILBOX, TUNE = "trials", "candidates", "promoted", "control", "tune"
OWNER = "owner.json"

#: Of a search: name or pattern -> content, in Markdown.
FILES = {
    REPORT: "one page that needs no network: the answer and its plot, trials, baselines, learning curves, importance of "
    "hyperparameters, generated texts, failures, cost, commands to reproduce",
    MARKDOWN: "the report as Markdown",
    "*.svg": "the plots of `report.md`",
    SUMMARY: "all values of the report; `answer` is the answer",
    LEDGER: "every event of the search, which is resumed from it",
    f"{TRIALS}/": "a folder for each trial; `0003-r1` repeats trial 0003 on a fresh seed",
    f"{BEST}/": "a model folder with the winner; if there is none, with the trial that has the best mean on fresh seeds",
    f"{PROMOTED}/": "the winner with a model card, once it was [handed over](../how-to/promote.md)",
    f"{CANDIDATES}/": "folders of generated pairs, if the search learns from them",
    f"{MAILBOX}/": "commands to the running search",
    f"{TUNE}/": "records of Ray Tune",
    OWNER: "the machine that runs the search, if the storage is a bucket",
}
