"""The strategies of a comparison by name, and the hyper-parameters of each as a typed block."""

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field

from .blocks import Block, NonNegativeFloat, Positive, PositiveFloat, Probability, Share
from .problems import nearest

Name = Literal[
    "dsn",
    "hat",
    "wsn",
    "supsup",
    "packnet",
    "pnn",
    "naive",
    "ewc",
    "mas",
    "si",
    "lwf",
    "agem",
    "gem",
    "replay",
    "cumulative",
    "joint",
    "independent",
    "random",
]
NAMES: tuple[str, ...] = get_args(Name)


def _known(name: object) -> object:
    if isinstance(name, str) and name not in NAMES:
        raise ValueError(f"unknown {name!r}{nearest(name, list(NAMES))}")
    return name


Strategy = Annotated[Name, BeforeValidator(_known)]


class BaselineBlock(Block):
    """``lr``: learning rate of this strategy; null: ``train.lr``."""

    lr: PositiveFloat | None = None


class HATConfig(BaselineBlock):
    """Hard attention to the task (Serra et al. 2018).

    sparsity: weight of the regulariser in the loss, c in the paper
    s_max: largest annealing scale
    """

    sparsity: NonNegativeFloat = 0.75
    s_max: Annotated[float, Field(gt=1)] = 400.0


class ScoredBlock(BaselineBlock):
    """Subnetworks of single weights.

    density: share of a layer's weights that a task uses
    score_lr_factor: learning rate of the scores that choose them, over ``lr``
    """

    density: Share = 0.5
    score_lr_factor: PositiveFloat = 1.0


class WSNConfig(ScoredBlock):
    """Winning subnetworks (Kang et al. 2022).

    signed_constants: weights begin as random signs times one constant a layer, as SupSup's, instead of as
        the backbone has them
    carry_scores: a task's scores go on from those of the task before, as in the authors' released code,
        instead of starting anew: tasks share more weights, and more stay free for later ones
    """

    signed_constants: bool = False
    carry_scores: bool = False


class SupSupConfig(ScoredBlock):
    """Supermasks in superposition (Wortsman et al. 2020)."""


class PackNetConfig(BaselineBlock):
    """PackNet (Mallya and Lazebnik 2018).

    prune: share of the free weights that a task gives back; null: each task keeps the same number
    retrain: share of the epochs that come after pruning (a third in the paper)
    """

    prune: Probability | None = None
    retrain: Annotated[float, Field(gt=0, lt=1)] = 1 / 3


class EWCConfig(BaselineBlock):
    """Elastic weight consolidation (Kirkpatrick et al. 2017).

    strength: weight of the penalty, lambda
    online: one running importance (Schwarz et al. 2018) instead of one a task
    decay: of the running importance; used only if ``online``
    """

    strength: NonNegativeFloat = 10.0
    online: bool = False
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0


class MASConfig(BaselineBlock):
    """Memory aware synapses (Aljundi et al. 2018).

    strength: weight of the penalty, lambda; 1 in the paper, which diverges with large learning rates
    decay: share of the old importance in the new one, alpha
    """

    strength: NonNegativeFloat = 0.01
    decay: Annotated[float, Field(ge=0, le=1)] = 0.5


class SIConfig(BaselineBlock):
    """Synaptic intelligence (Zenke et al. 2017).

    strength: weight of the penalty, c
    damping: xi, keeps the importance finite where a weight hardly moved
    """

    strength: NonNegativeFloat = 1.0
    damping: PositiveFloat = 0.1


class LwFConfig(BaselineBlock):
    """Learning without forgetting (Li and Hoiem 2016): ``alpha``, weight, and ``temperature`` of the
    distillation."""

    alpha: NonNegativeFloat = 1.0
    temperature: PositiveFloat = 2.0


class AGEMConfig(BaselineBlock):
    """Averaged GEM (Chaudhry et al. 2019).

    samples: kept of each task
    batch: samples of the memory that the reference gradient is taken on, at most
    """

    samples: Positive = 200
    batch: Positive = 256


class GEMConfig(BaselineBlock):
    """Gradient episodic memory (Lopez-Paz and Ranzato 2017).

    samples: kept of each task
    strength: how far the gradient is pushed beyond its constraints, gamma
    """

    samples: Positive = 200
    strength: NonNegativeFloat = 0.5


class ReplayConfig(BaselineBlock):
    """Experience replay; ``samples``: in memory in all, shared evenly by the tasks."""

    samples: Positive = 200


class BaselinesConfig(Block):
    """Hyper-parameters, one block a strategy; only that of ``strategy`` is used."""

    hat: HATConfig = HATConfig()
    wsn: WSNConfig = WSNConfig()
    supsup: SupSupConfig = SupSupConfig()
    packnet: PackNetConfig = PackNetConfig()
    pnn: BaselineBlock = BaselineBlock()
    naive: BaselineBlock = BaselineBlock()
    ewc: EWCConfig = EWCConfig()
    mas: MASConfig = MASConfig()
    si: SIConfig = SIConfig()
    lwf: LwFConfig = LwFConfig()
    agem: AGEMConfig = AGEMConfig()
    gem: GEMConfig = GEMConfig()
    replay: ReplayConfig = ReplayConfig()
    cumulative: BaselineBlock = BaselineBlock()
    joint: BaselineBlock = BaselineBlock()
    independent: BaselineBlock = BaselineBlock()
    random: BaselineBlock = BaselineBlock()
