"""What is found for many tasks at once, or gone on from, is what each task alone would give."""

from contextlib import suppress

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dsn import InputError, backbones, mask_neurons
from dsn.masking.growth import grow
from dsn.masking.reach import needed_inputs
from dsn.transfer import most_similar, similarity


class Competing(nn.Module):
    """Fewer open neurons can mean more that is felt: the largest two pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 9), nn.Linear(9, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.first(x))
        return torch.relu(self.second(h * h.ge(h.topk(2).values[..., -1:])))


NETS = {"mlp": lambda: backbones.mlp(5, (9, 6)), "competing": Competing}


@given(
    st.sampled_from(list(NETS)),
    st.lists(st.sampled_from(["learn", "learn", "grow", "change", "forget"]), min_size=3, max_size=9),
    st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
def test_tasks_one_by_one_and_all_at_once(net, actions, seed):
    torch.manual_seed(seed)
    model = mask_neurons(NETS[net](), example_input=torch.zeros(1, 5))
    tasks = iter(range(20))
    for action in ["learn", *actions]:
        if action == "learn":
            task = next(tasks)
            model.add_task(3, task)
            for logits in model.gate_logits():
                nn.init.normal_(logits)
            model.commit(task)
        elif action == "grow":
            grow(model, by=3, below=99)
        elif action == "change" and model.committed:
            for gate in model.gates_by_path.values():
                row = int(torch.randint(len(model.committed), ()))
                gate.replace(row, torch.rand(gate.widths[row]) < 0.5)
        elif action == "forget" and len(model.committed) > 1:
            with suppress(InputError):  # nobody else knows how wide it was
                model.forget(model.committed[0], keep_shared=True)
        needed = needed_inputs(model)
        assert model.network_map is not None
        model.network_map.alone = None
        afresh = needed_inputs(model)
        assert all(torch.equal(needed[path], afresh[path]) for path in afresh)
        earlier, last = model.committed[:-1], model.committed[-1]
        alike = {task: round(similarity(model, task, last), 5) for task in earlier}
        assert [alike[task] for task in most_similar(model, last, 3)] == sorted(alike.values())[::-1][:3]
        before = needed_inputs(model, before=last)
        model.network_map.alone = None
        assert all(
            torch.equal(flags, needed_inputs(model, before=last)[path]) for path, flags in before.items()
        )
