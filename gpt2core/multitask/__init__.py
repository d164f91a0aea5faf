"""Several tasks in one run: one model for each task, which share parameters, and the rule that combines their gradients.

`models` makes the models, `combining` has the rules, and `run` takes the steps. The task is `gpt2core.tasks.multi`.
"""
