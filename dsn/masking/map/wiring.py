"""The wiring between the layers of a network: for each call of a layer, which neurons arrive at which inputs.

Where the map says what can be *felt*, the wiring says what is *added up*: norms count as identity, what an
operation adds by itself does not count, and the network's input is one source more.

Shapes: n neurons of a source (a layer's outputs, the network's input channels); d inputs of a layer (columns
of a Linear's weight, input channels of a Conv) or outputs of the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Stage = tuple[str, int]
"""a layer's path and which of its calls this is, from 0"""
INPUT, OUTPUT = ("input", -1), ("output", -1)


@dataclass(frozen=True)
class Wire:
    """Neurons of ``source`` and the inputs that they arrive at: neuron ``neurons[i]`` at ``columns[i]``.

    int64 [k] each.
    """

    source: Stage
    neurons: Tensor
    columns: Tensor

    def reached(self, d: int) -> Tensor:
        """Bool [d]: the inputs at which anything arrives."""
        return torch.zeros(d, dtype=torch.bool).index_fill(0, self.columns, True)

    @cached_property
    def distinct_neurons(self) -> bool:
        """Whether each neuron arrives at one input alone."""
        return len(self.neurons.unique()) == len(self.neurons)

    @cached_property
    def distinct_columns(self) -> bool:
        """Whether no two neurons meet in an input."""
        return len(self.columns.unique()) == len(self.columns)


@dataclass(frozen=True)
class Wiring:
    """The stages in forward order, how wide their inputs and outputs are, and what arrives at each.

    ``widths``: neurons of the input and of each stage; ``inputs``: d of each stage and of the output.
    ``products``: the stages at which layers meet in anything but a sum or a concatenation.
    """

    stages: list[Stage]
    widths: dict[Stage, int]
    inputs: dict[Stage, int]
    links: dict[Stage, list[Wire]]
    products: tuple[Stage, ...] = ()
