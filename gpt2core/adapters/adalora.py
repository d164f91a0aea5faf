"""AdaLoRA (Zhang et al. 2023, arXiv 2303.10512): LoRA whose ranks follow from the importance of each singular direction."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gpt2core.adapters.base import Adapter
from gpt2core.adapters.lora import LORA, LoRALinear, Pair, lora_layers, projections
from gpt2core.component import key
from gpt2core.config import LowRankKeys, RunConfig, parse_blocks
from gpt2core.errors import ConfigError
from gpt2core.model import GPT2
from gpt2core.precision import narrow_type
from gpt2core.projection import Projection

STD = 0.02  # of the initial singular vectors
BETA = 0.85  # of both moving averages of importance
WARMUP = 0.2  # share of the first epoch before triplets are pruned
IMPORTANCE, UNCERTAINTY = "importance", "uncertainty"  # moving averages in the optimizer's state of a parameter


class AdaloraKeys(LowRankKeys):
    """Keys of AdaLoRA. `rank` is the mean rank that is left after the first epoch."""

    adalora_start: float = key(1.5, "AdaLoRA: rank at the start, as a multiple of `rank`", "step", ge=1, le=100)
    adalora_penalty: float = key(
        0.5, "AdaLoRA: weight of the penalty for singular vectors that are not orthogonal", ge=0
    )


class SVDLinear(LoRALinear):
    """A projection with an update in the form of a singular value decomposition: base(x) + scale * P diag(E) Q x.

    Q (r, in) is `lora_A`, P (out, r) is `lora_B`, and `lora_E` (r, 1) holds the singular values, as in peft. A *triplet* is one
    of them with its two singular vectors. A pruned triplet has the singular value 0.
    """

    joins = False

    def __init__(self, base: Projection, *, rank: int, scale: float, dropout: float) -> None:
        super().__init__(base, rank=rank, scale=scale, dropout=dropout, dora=False)
        nn.init.normal_(self.lora_A.weight, std=STD)
        nn.init.normal_(self.lora_B.weight, std=STD)
        self.lora_E = nn.Parameter(base.weight.new_zeros(rank, 1))

    def reduced(self, x: Tensor) -> Tensor:
        inner = super().reduced(x)
        return inner * self.lora_E[:, 0].to(inner.dtype)

    def pair(self) -> Pair:
        """Return the triplets that are left as a pair, detached."""
        values = self.lora_E.detach()
        kept = values[:, 0] != 0
        down = (values * self.lora_A.weight.detach())[kept]
        return Pair(down, self.lora_B.weight.detach()[:, kept], self.scale)

    def matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the parameters E (r, 1), Q (r, in) and P (out, r)."""
        return self.lora_E, self.lora_A.weight, self.lora_B.weight


def adalora(model: GPT2, config: RunConfig) -> None:
    """Add an update of rank `adalora_start` * `rank` to each target projection; only the updates train.

    In the first epoch, `allocate` prunes them to the mean rank `rank`. So every checkpoint keeps as many parameters as LoRA of
    that rank, once E is multiplied into Q. The scale is alpha / `rank`. `orthogonality` is added to the loss.

    Raises ConfigError for blocks that the model lacks, and in float16, whose scaled gradients have no comparable importance.
    """
    if narrow_type(config, model.wte.weight.device) == torch.float16:
        raise ConfigError(
            "The adapter `adalora` compares gradients of different steps, but those of float16 have different scales: "
            "set `precision` to float32 or bfloat16"
        )
    model.requires_grad_(False)
    rank, scale = round(config.part(AdaloraKeys).adalora_start * config.rank), config.lora_alpha / config.rank
    for name, base in _targets(model, config):
        adapted = SVDLinear(base, rank=rank, scale=scale, dropout=config.lora_dropout)
        model.set_submodule(name, adapted)


def _targets(model: GPT2, config: RunConfig) -> list[tuple[str, Projection]]:
    blocks = parse_blocks(ADALORA.block_spec(config), model.config.n_layer)
    return [target for block in blocks for target in projections(model, block, config)]


def _layers(model: GPT2) -> list[SVDLinear]:
    return [layer for _, layer in lora_layers(model) if isinstance(layer, SVDLinear)]


def orthogonality(model: GPT2, config: RunConfig) -> Tensor:
    """Return the weighted penalty of singular vectors that are not orthonormal: the mean of |Q Q' - I| and |P' P - I|.

    As in peft, these are Frobenius norms, averaged over all matrices; equation 4 of the paper has the squares of the norms.
    """
    rows = [matrix for layer in _layers(model) for matrix in (layer.lora_A.weight, layer.lora_B.weight.T)]
    norms = [torch.linalg.matrix_norm(q @ q.T - torch.eye(len(q), device=q.device)) for q in rows]
    return config.part(AdaloraKeys).adalora_penalty * torch.stack(norms).mean()


@torch.no_grad()
def allocate(model: GPT2, optimizer: Optimizer, config: RunConfig, number: int, steps: int) -> None:
    """After update `number`, counted from 0, prune the triplets that are least important over the whole model.

    How many are left falls from all to `rank` per projection by the cubic schedule of equation 12, from WARMUP of the first epoch
    to its end; it has `steps` updates. Triplets that are pruned earlier may come back; the last choice is final. Importance is
    kept in the optimizer's state, so that a resumed run is like an uninterrupted one.
    """
    layers, update = _layers(model), number + 1
    if update < steps or steps == 1:
        for layer in layers:
            _track(layer, optimizer)
    most, least = sum(len(layer.lora_E) for layer in layers), config.rank * len(layers)
    warmup = int(WARMUP * steps)
    if update > warmup:
        remaining = max(0.0, 1 - (update - warmup) / (steps - warmup))
        _prune(layers, optimizer, int((most - least) * remaining**3 + least))


def _track(layer: SVDLinear, optimizer: Optimizer) -> None:
    """Update the moving averages of each number's |w * gradient| and of its deviation, equations 8 to 10 of the paper."""
    for parameter in layer.matrices():
        assert parameter.grad is not None
        state, sensitivity = optimizer.state[parameter], (parameter * parameter.grad).abs()
        zeros = torch.zeros_like(parameter)
        state[IMPORTANCE] = BETA * state.get(IMPORTANCE, zeros) + (1 - BETA) * sensitivity
        deviation = (sensitivity - state[IMPORTANCE]).abs()
        state[UNCERTAINTY] = BETA * state.get(UNCERTAINTY, zeros) + (1 - BETA) * deviation


def _prune(layers: list[SVDLinear], optimizer: Optimizer, budget: int) -> None:
    """Set the singular values of all but the `budget` most important triplets to 0."""
    scores = torch.cat([_scores(layer, optimizer) for layer in layers])
    kept = torch.ones_like(scores, dtype=torch.bool)
    kept[scores.argsort(stable=True)[: len(scores) - budget]] = False
    for layer, own in zip(layers, kept.split([len(layer.lora_E) for layer in layers]), strict=True):
        layer.lora_E.masked_fill_(~own[:, None], 0.0)


def _scores(layer: SVDLinear, optimizer: Optimizer) -> Tensor:
    """Return the importance (r,) of a layer's triplets: that of the singular value plus the means of its vectors, equation 7."""
    states = [optimizer.state[parameter] for parameter in layer.matrices()]
    values, right, left = (state[IMPORTANCE] * state[UNCERTAINTY] for state in states)
    scores: Tensor = values[:, 0] + right.mean(dim=1) + left.mean(dim=0)
    return scores


def count_kept(model: GPT2, config: RunConfig) -> int:
    """Return the number of parameters of LoRA of the final mean rank; exact if all projections have the same shape."""
    return sum(config.rank * (base.in_features + base.out_features) for _, base in _targets(model, config))


ADALORA = Adapter(
    apply=adalora,
    keys=AdaloraKeys,
    meaning="AdaLoRA on blocks {blocks}, as configured",
    presets=LORA.presets,
    resolve=lambda config: {"alpha": config.lora_alpha},
    penalty=orthogonality,
    after_update=allocate,
    state=(IMPORTANCE, UNCERTAINTY),
    keeps=count_kept,
    peft_format=True,
)
