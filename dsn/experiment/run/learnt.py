"""What one strategy's training gives; for a checkpoint, while the references are still being trained."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from dsn.baselines import MemoryUse
from dsn.evaluation.metrics import Matrix, as_matrix
from dsn.masking import MaskedModel
from dsn.storage import Tree
from dsn.training.state import copied

from ..config.experiment import Config
from ..config.network import architecture, build_model
from ..result.result import Forward, Row, TaskTime, Transfer, UnlabelledRow, matrix_as_lists


@dataclass(frozen=True)
class Learnt:
    """What training gives, before anything is written."""

    matrix: Matrix
    random: list[float] | None
    """accuracy of each task before any training, where that was evaluated"""
    model: MaskedModel | None
    """None where the strategy's network has no masks over neurons"""
    times: list[TaskTime]
    memory: MemoryUse
    transfers: list[Transfer] = field(default_factory=list)
    forward_transfers: list[Forward] = field(default_factory=list)
    certificate: list[Row] | None = None
    class_incremental: list[UnlabelledRow] | None = None


def tree_of(learnt: Learnt, seconds: float) -> Tree:
    """As a tree of ``dsn.storage``; ``seconds``: when it was learnt."""
    lists: dict[str, Any] = {"times": learnt.times, "certificate": learnt.certificate}
    lists["class_incremental"] = learnt.class_incremental
    lists |= {"transfers": learnt.transfers, "forward_transfers": learnt.forward_transfers}
    return {
        "seconds": seconds,
        "matrix": matrix_as_lists(learnt.matrix),
        "random": learnt.random,
        "model": None if learnt.model is None else copied(learnt.model.state_dict()),
        "memory": asdict(learnt.memory),
        **{name: None if parts is None else [p.model_dump() for p in parts] for name, parts in lists.items()},
    }


def learnt_of(
    tree: Tree, config: Config, sample_shape: torch.Size, device: torch.device
) -> tuple[Learnt, float]:
    """What :func:`tree_of` made a tree of."""
    model = None
    if tree["model"] is not None:
        model = build_model(architecture(config), sample_shape)
        model.load_state_dict(tree["model"])
        model.to(device)
    rows, unlabelled = tree["certificate"], tree.get("class_incremental")
    learnt = Learnt(
        matrix=as_matrix(tree["matrix"]),
        random=tree["random"],
        model=model,
        times=[TaskTime(**values) for values in tree["times"]],
        memory=MemoryUse(**tree["memory"]),
        transfers=[Transfer(**values) for values in tree["transfers"]],
        forward_transfers=[Forward(**values) for values in tree["forward_transfers"]],
        certificate=None if rows is None else [Row(**values) for values in rows],
        class_incremental=None if unlabelled is None else [UnlabelledRow(**one) for one in unlabelled],
    )
    return learnt, tree["seconds"]
