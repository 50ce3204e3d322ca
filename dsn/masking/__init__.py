"""Neuron masks: gates and committed masks, protected weights, growth. Works on any PyTorch model."""

from .growth import grow
from .model import MaskedModel
from .protection import ProtectedWeights
from .sparsity import sparsity
from .wrap import mask_neurons

__all__ = ["MaskedModel", "ProtectedWeights", "grow", "mask_neurons", "sparsity"]
