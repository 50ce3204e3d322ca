"""The one call that masks a backbone."""

from torch import Tensor, nn

from .model import MaskedModel


def mask_neurons(
    backbone: nn.Module,
    *,
    example_input: Tensor,
    head: str | None = None,
    edges: str = "none",
    rehearse: bool = True,
    pretrained: bool = False,
    fresh: int = 0,
    attention: str = "rows",
) -> MaskedModel:
    """Wrap ``backbone`` so that each task gets a mask over its neurons, a head and norm state of its own.

    Args:
        backbone: any module made for the most part of Linear, Conv1d, Conv2d, norms and attention; of what
            else has parameters each task gets a copy (``foreign``). It is changed in place,
            :meth:`MaskedModel.unmask` gives it back.
        example_input: one batch as the backbone takes it, e.g. ``torch.zeros(1, 3, 32, 32)``.
        head: path of the classifier (a Linear) that the tasks' own heads replace; None where the backbone
            returns features [batch, d].
        edges: "none": masks over neurons alone. "own_and_read": a task owns the weights of its fresh
            neurons, and packed bits choose which of all other weights it reads; "own_and_sign": they choose
            the signs that it reads them with; "own": it reads them all as they are (``edges``). All three
            replace the backbone's weights by constants with random signs, and each task says how many there
            shall be: ``add_task(planned_tasks=...)``.
        rehearse: try on a copy that earlier tasks stay bit-equal when others are learnt (``rehearsal.py``),
            now and after each growth. It takes a copy of the backbone and some twenty passes over four
            samples.
        pretrained: the backbone counts as a task before the first: all its neurons are open for every task,
            free of charge, and its weights never change (norms and own tensors are each task's own).
        fresh: neurons that every layer is given beside a pretrained backbone's that can be, for tasks to
            learn with; ``model.fresh`` says which have any. The backbone stays so wide after ``unmask``.
        attention: "rows": each row of q, k and v is a neuron that a task selects or not; "heads": the rows of
            a head are selected together (``foreign/heads.py``).

    Raises:
        InputError: for what cannot be masked, with the layer's path, the reason and the remedy.
    """
    return MaskedModel(
        backbone,
        example_input=example_input,
        head=head,
        edges=edges,
        rehearse=rehearse,
        pretrained=pretrained,
        fresh=fresh,
        attention=attention,
    )
