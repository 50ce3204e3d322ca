"""Candidates for backward transfer on one stream: what replay adds, and judges beside the truth.

    python -m benchmarks.transfer_candidates configs/mixed_digits.yaml --seeds 400,401,402

A stream is learnt once a seed without transfer; every pair of an earlier and a later task is tried on it.
Each arm adds a head to the earlier task's calibrated logits with the same weight. They differ in what the
head is fitted to and in whose features it reads; the gated refinement changes the earlier task's own head.
Test data of the earlier task measure the gain and decide nothing.
"""

import argparse
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from dsn.evaluation.statistics import mean_interval
from dsn.experiment.config.experiment import Config, load
from dsn.experiment.config.network import replay_arguments
from dsn.experiment.config.seeds import parse_seeds
from dsn.experiment.labs.transfer import Base, learn_base
from dsn.replay import synthesise
from dsn.transfer import Decision, Situation, most_similar
from dsn.transfer.acceptance import closeness
from dsn.transfer.assessment import features_of, predict, remembered
from dsn.transfer.backward import TaskState
from dsn.transfer.lab import Samples, accuracy
from dsn.transfer.linear import fit_head
from dsn.transfer.mechanisms import NEAR_WEIGHT, correspondence
from dsn.transfer.situation import Replay

RANK = 8  # of the covariance of a class, at the network's input
DRAWS = 50  # of each class
MANY = 5  # times the impressions, for a student of nothing else
ENERGY, STEPS = 0.95, 100  # of the old features, which the refinement leaves alone; its steps
LEVELS = {"expected": 0.0, "80%": 0.84, "95%": 1.64}
"""normal quantiles of a one-sided bound on the expected gain"""


def gaussian(data: Samples, classes: int, random: torch.Generator) -> Samples:
    """Draws of each class, from its mean and the first ``RANK`` directions of its covariance.

    Kept a task: classes x (1 + RANK) x inputs numbers. The layer is the network's input: a later task's
    neurons can be computed from nothing else that the earlier task knew of.
    """
    x, y = data[0].flatten(1), data[1]
    parts, labels = [], []
    for c in range(classes):
        mine = x[y == c]
        mean = mine.mean(0)
        _, spread, axes = torch.linalg.svd(mine - mean, full_matrices=False)
        scale = (spread / max(len(mine) - 1, 1) ** 0.5)[:RANK]
        draws = torch.randn(DRAWS, len(scale), generator=random)
        parts.append(mean + draws * scale @ axes[:RANK])
        labels.append(torch.full((DRAWS,), c))
    return torch.cat(parts).view(-1, *data[0].shape[1:]), torch.cat(labels)


def refined(situation: Situation, new: Samples, old: Samples) -> Tensor:
    """A change [classes, d] of the earlier task's head, by the gradient of ``new`` samples x, y.

    Only entries in which it agrees with the gradient of ``old`` ones count, and only what lies in the
    complement of the directions that hold ``ENERGY`` of the old features (ETCL, SABER: signs and subspaces).
    """
    model, task = situation.model, situation.task
    head = cast(nn.Linear, model.heads[str(task)])
    (f, y), (f_old, y_old) = ((features_of(model, x, task).float(), y) for x, y in (new, old))
    _, spread, axes = torch.linalg.svd(f_old, full_matrices=False)
    share = spread.square().cumsum(0) / spread.square().sum()
    axes = axes[: int((share < ENERGY).sum()) + 1]
    change = torch.zeros_like(head.weight)
    step = 4 * len(f) / float(torch.linalg.matrix_norm(f, 2)) ** 2

    def gradient(features: Tensor, labels: Tensor) -> Tensor:
        logits = F.linear(features, head.weight + change, head.bias) / situation.temperature
        gap = logits.softmax(1) - F.one_hot(labels, len(head.weight))
        return gap.T @ features / len(features)

    for _ in range(STEPS):
        g, g_old = gradient(f, y), gradient(f_old, y_old)
        g = g * (g * g_old > 0)
        change = change - step * (g - g @ axes.T @ axes)
    return change


def arms(base: Base, situation: Situation, config: Config, more: Replay) -> Iterator[tuple[str, Tensor]]:
    """(name, logits for the earlier task's test data) of each arm."""
    model, task, source, classes = (
        base.model,
        situation.task,
        situation.source,
        situation.classes(situation.task),
    )
    relabelled, anchors = situation.relabelled_targets(), situation.anchored_targets()
    if relabelled is None or anchors is None:
        return
    made = situation.impressions
    x, y = relabelled
    says = anchors[1][len(x) :]
    drawn, labels = gaussian(base.train[task], classes, torch.Generator().manual_seed(config.seed))
    drawn_targets = F.one_hot(labels, classes).float()
    many = more(task, 2 * config.seed)
    truth = base.train[task]
    sets = {
        "labelled images alone (impressions off)": (x, y),
        "labelled images + impressions as anchors": anchors,
        "labelled images + draws from each class": (torch.cat([x, drawn]), torch.cat([y, drawn_targets])),
        "impressions alone": (made.x, says),
        f"{MANY} times as many impressions alone (born again)": (many.x, situation.says_of(many.x)),
        "draws alone": (drawn, drawn_targets),
    }
    readers = {
        f"{name}{end}": (one, reader)
        for name, one in sets.items()
        for end, reader in (("", source), (", own features", task))
    }
    readers["oracle: real old data"] = (truth[0], F.one_hot(truth[1], classes).float()), source
    test = base.test[task][0]
    own = predict(model, test, task).float() / situation.temperature
    for name, ((inputs, targets), reader) in readers.items():
        head = fit_head(features_of(model, inputs, reader).float(), targets)
        yield name, own + NEAR_WEIGHT * F.linear(features_of(model, test, reader).float(), *head)
    for name, old in (
        ("own head refined by agreeing gradients", (made.x, made.targets.argmax(1))),
        ("own head refined, gated by real old data", truth),
    ):
        change = refined(situation, (x, y.argmax(1)), old) / situation.temperature
        yield name, own + F.linear(features_of(model, test, task).float(), change)


def gains(base: Base, situation: Situation, config: Config, more: Replay) -> dict[str, float]:
    """Gain in points of each arm."""
    x, y = base.test[situation.task]
    before = accuracy(predict(base.model, x, situation.task).float(), y)
    found = arms(base, situation, config, more)
    return {name: 100 * (accuracy(logits, y) - before) for name, logits in found}


def judged(base: Base, situation: Situation) -> tuple[float, dict[str, bool]]:
    """The true gain in points of ``correspondence``, and what each judge says of it.

    The candidate: the earlier task's accuracy on its own data is a, on the later task's validation data,
    under the correspondence of classes, b before the change and c after it. a - b is what the two kinds of
    images differ by; as much may be lost on the way back, so the gain on its own data is c - a - (a - b).
    Kept if the lower bound of that is above 0.
    """
    model, task, found = base.model, situation.task, situation.correspondence
    state, test = TaskState(model, task), base.test[task]
    before = accuracy(predict(model, test[0], task), test[1])
    today = closeness(situation)
    decision = today if isinstance(today, Decision) else today()
    state.restore()
    if found is None or correspondence(situation) is None:
        return 0.0, {"today": decision.accepted, **dict.fromkeys(LEVELS, False)}
    gain = 100 * (accuracy(predict(model, test[0], task), test[1]) - before)
    x, y = base.valid[situation.source]
    mine = torch.full((situation.classes(situation.source),), -1)
    mine[found.match] = torch.arange(len(found.match))
    x, y = x[mine[y] >= 0], mine[y][mine[y] >= 0]
    c = accuracy(predict(model, x, task), y)
    state.restore()
    b, a, n = (
        accuracy(predict(model, x, task), y),
        remembered(model, task, "accuracy") or 0.0,
        len(base.valid[task][0]),
    )
    spread = ((c * (1 - c) + b * (1 - b)) / len(y) + 4 * a * (1 - a) / n) ** 0.5
    kept = {name: c + b - 2 * a - z * spread > 0 for name, z in LEVELS.items()}
    return gain, {"today": decision.accepted, **kept}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", default="400,401,402")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    by_seed: list[dict[str, float]] = []
    verdicts: list[tuple[float, dict[str, bool]]] = []
    for seed in parse_seeds(options.seeds):
        config = load(options.config, [*options.overrides, f"seed={seed}"])
        base = learn_base(config, Console(quiet=True))
        replay, more = _replay(base, config), _replay(base, config, MANY)
        pairs = [
            Situation(base.model, task, source, *base.train[source], replay, seed)
            for source in base.model.committed
            for task in most_similar(base.model, source, config.transfer.tasks)
        ]
        verdicts += [judged(base, pair) for pair in pairs]
        found = [gains(base, pair, config, more) for pair in pairs]
        by_seed.append({name: float(np.mean([gain[name] for gain in found if gain])) for name in found[0]})
    show(by_seed, verdicts)


def _replay(base: Base, config: Config, times: int = 1) -> Replay:
    arguments = replay_arguments(config, base.pixel_range)
    arguments["images"] *= times
    return cache(lambda task, draw: synthesise(base.model, task, seed=config.seed + draw, **arguments))


def show(by_seed: list[dict[str, float]], verdicts: list[tuple[float, dict[str, bool]]]) -> None:
    """Gains over seeds, each arm less the first; then how often each judge is right."""
    plain = next(iter(by_seed[0]))
    print("| head fitted to | gain in points | 95% interval | minus the first row | 95% interval |")
    print("|---|---:|---:|---:|---:|")
    for name in by_seed[0]:
        gain = _estimate([run[name] for run in by_seed])
        print(f"| {name} | {gain} | {_estimate([run[name] - run[plain] for run in by_seed])} |")
    print(f"\n{len(verdicts)} pairs, {sum(gain > 0 for gain, _ in verdicts)} gain\n")
    print("| judge | accepted | precision | recall | mean gain over pairs |\n|---|---:|---:|---:|---:|")
    for judge in verdicts[0][1]:
        kept = [gain for gain, says in verdicts if says[judge]]
        right, all_ = sum(gain > 0 for gain in kept), sum(gain > 0 for gain, _ in verdicts)
        precision = f"{right / len(kept):.0%}" if kept else "-"
        mean = sum(kept) / len(verdicts)
        print(f"| {judge} | {len(kept)} | {precision} | {right / max(all_, 1):.0%} | {mean:+.2f} |")


def _estimate(values: list[float]) -> str:
    found = mean_interval(np.array(values))
    interval = "-" if found.low is None else f"{found.low:+.2f} to {found.high:+.2f}"
    return f"{found.mean:+.2f} | {interval}"


if __name__ == "__main__":
    main()
