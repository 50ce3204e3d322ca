"""How a task selects neurons and edges, as blocks of a config."""

from typing import Annotated, Literal

from pydantic import Field

from .blocks import Block, NonNegative, Positive, Share


class InitialConfig(Block):
    """Neurons that a task starts with, ``dsn.masking.initial``; training may still change the choice.

    choice: all leaves it to the gate logits; widths: the same share of each layer; regular: as many neurons
        in each; npb: widths that balance nodes and paths; all three cost at most the edges of ``widths``
    share: of a layer's neurons
    reuse: share of them that are used ones, as far as there are any
    he: draw plastic weights between them anew, scaled by the active fan-in; far larger than torch's own
        initial weights, so it may need a smaller train.lr
    """

    choice: Literal["all", "widths", "regular", "npb"] = "all"
    share: Share = 0.5
    reuse: Annotated[float, Field(ge=0, le=1)] = 0.5
    he: bool = False


class SelectionConfig(Block):
    """How neurons are selected.

    sparsity: weight of the sparsity term in the loss, eta
    s_max: largest annealing scale
    annealing: the scale goes from 1/s_max to s_max within each epoch, or once over the task
    logit_mean, logit_std: gate logits start from N(mean, std)
    budget: a task selects at most this share of a layer's neurons; for all layers, or {layer path: share}
    planned_tasks: how many tasks shall share the network's edges evenly, which limits the fresh neurons of
        each; it starts with them and all used ones; stream: as many as the stream has; null: no plan
    growth: neurons added to a layer that runs out of free ones; 0: none
    edges: none: neurons alone are selected. own_and_read: a task owns the fresh neurons that planned_tasks
        gives it, their weights learn, and packed bits choose which other weights it reads; own_and_sign: the
        bits choose their signs; own: it reads all as they are
    fresh: with backbone.pretrained, all tasks share the backbone, which never changes, and each layer that
        can be is given so many neurons beside it for tasks to learn with; null: its weights are a mere start
    attention: rows: each row of q, k and v is a neuron of its own; heads: a head's are selected together
    score_lr_factor: the scores of edges learn at train.lr times this
    first_edges: the half of the edges that own_and_read reads at first: drawn, or by Node-Path Balancing
    initial: neurons that a task starts with
    """

    sparsity: Annotated[float, Field(ge=0)] = 0.75
    s_max: Annotated[float, Field(gt=1)] = 400.0
    annealing: Literal["epoch", "task"] = "epoch"
    logit_mean: float = 0.0
    logit_std: Annotated[float, Field(ge=0)] = 1.0
    budget: Share | dict[str, Share] | None = None
    planned_tasks: Positive | Literal["stream"] | None = None
    growth: NonNegative = 0
    edges: Literal["none", "own_and_read", "own_and_sign", "own"] = "none"
    fresh: NonNegative | None = None
    attention: Literal["rows", "heads"] = "rows"
    score_lr_factor: Annotated[float, Field(gt=0)] = 10.0
    first_edges: Literal["drawn", "balanced"] = "drawn"
    initial: InitialConfig = InitialConfig()
