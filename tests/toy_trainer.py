"""A training program as courses hand them out: a logistic regression on two clouds of points, trained by flags and prints.

It knows nothing of this project. Tests run it as a user would run theirs.
"""

import argparse
import json
import math
import random
import signal
import sys
import time
from pathlib import Path

POINTS, NOISE, DROPOUT = 400, 1.2, 0.5


def get_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=11711)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--use_gpu", action="store_true")
    parser.add_argument("--resume", help="go on from this checkpoint")
    parser.add_argument("--metrics", help="also write the scores of each epoch to this file")
    parser.add_argument("--wait", type=float, default=0.0, help="seconds of an epoch")
    return parser.parse_args()


def load_data(seed: int) -> list[tuple[float, float, int]]:
    rng = random.Random(seed)
    labels = [rng.randrange(2) for _ in range(POINTS)]
    return [(rng.gauss(2 * label - 1, NOISE), rng.gauss(2 * label - 1, NOISE), label) for label in labels]


def probability(weights: list[float], x: float, y: float) -> float:
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, weights[0] * x + weights[1] * y + weights[2]))))


def model_eval(data: list[tuple[float, float, int]], weights: list[float]) -> float:
    return sum((probability(weights, x, y) > 0.5) == label for x, y, label in data) / len(data)


def train(args: argparse.Namespace) -> None:
    train_data, dev_data = load_data(1), load_data(2)
    print(f"load {POINTS} data")
    rng = random.Random(args.seed)
    weights, first, best_dev_acc = [rng.gauss(-1, 0.2) for _ in range(3)], 0, 0.0
    if args.resume:
        saved = json.loads(Path(args.resume).read_text())
        weights, first = saved["model"], saved["epoch"] + 1
        print(f"resumed after epoch {saved['epoch']}")
    for epoch in range(first, args.epochs):
        rng = random.Random(args.seed * 1000 + epoch)
        rng.shuffle(train_data)
        loss = 0.0
        for start in range(0, POINTS, args.batch_size):
            gradient = [0.0, 0.0, 0.0]
            for x, y, label in train_data[start : start + args.batch_size]:
                x, y = (value / DROPOUT * (rng.random() < DROPOUT) for value in (x, y))
                p = probability(weights, x, y)
                loss -= math.log(max(1e-9, p if label else 1 - p))
                gradient = [g + (p - label) * value for g, value in zip(gradient, (x, y, 1.0), strict=True)]
            weights = [w - args.lr * g for w, g in zip(weights, gradient, strict=True)]
        time.sleep(args.wait)
        train_acc, dev_acc = model_eval(train_data, weights), model_eval(dev_data, weights)
        Path("checkpoint.pt").write_text(json.dumps({"model": weights, "epoch": epoch}))
        if dev_acc > best_dev_acc:
            best_dev_acc = dev_acc
            Path(f"{args.epochs}-{args.lr}-toy.pt").write_text(json.dumps({"model": weights, "args": vars(args)}))
            print(f"save the model to {args.epochs}-{args.lr}-toy.pt")
        print(
            f"Epoch {epoch}: train loss :: {loss / POINTS:.3f}, train acc :: {train_acc:.3f}, dev acc :: {dev_acc:.3f}"
        )
        if args.metrics:
            with open(args.metrics, "a") as file:  # noqa: PTH123
                file.write(json.dumps({"epoch": epoch, "dev_acc": dev_acc}) + "\n")


def interrupted(number: int, frame: object) -> None:
    Path("interrupted").touch()
    sys.exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupted)
    train(get_args())
