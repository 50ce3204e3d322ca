"""Which task an input is of, from what each task keeps of its own data."""

import copy

import pytest
import torch
from torch import nn

from dsn import InputError, mask_neurons
from dsn.masking.recognition import SCORES, Fit, choose, fit, know
from dsn.masking.recognition.known import Known, look
from tests.nets import NETS, learn, logits, make, same

pytestmark = pytest.mark.filterwarnings("ignore:task .* no free neuron")


def data(x: torch.Tensor, task: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples of a task: far from those of the others, in three classes."""
    y = torch.arange(len(x)) % 3
    return x / 4 + 3 * task + y.view(-1, *[1] * (x.dim() - 1)), y


def taught(net: str, edges: str = "none"):
    build, shape = NETS[net]
    torch.manual_seed(0)
    model = mask_neurons(build(True), example_input=torch.zeros(1, *shape), edges=edges)
    x = torch.randn(60, *shape)
    for task in range(3):
        learn(model, data(x, task)[0], task, "adam", planned_tasks=3)
    return model, x


@pytest.mark.parametrize("edges", ["none", "own_and_read"])
@pytest.mark.parametrize("net", ["mlp", "small_cnn", "concatenation"])
def test_far_data_are_told_apart_by_their_distance(net: str, edges: str) -> None:
    model, x = taught(net, edges)
    before = logits(model, x)
    for task in range(3):
        x_task, y = data(x, task)
        model.know_task(task, (x_task[:40], y[:40]), (x_task[40:], y[40:]))
    assert same(before, logits(model, x))
    right = 0
    for task in range(3):
        fresh = data(torch.randn_like(x), task)[0]
        found = model.predict(fresh, "distance")
        right += int((found.tasks == task).sum())
        for score in SCORES:
            seen = model.predict(fresh, score)
            for t in range(3):  # the class is the one of the task that was found
                rows = seen.tasks == t
                assert torch.equal(seen.classes[rows], model(fresh, t).argmax(1)[rows])
    assert right > 0.45 * 3 * len(x)  # by chance a third
    twin = copy.deepcopy(make(net)[0]) if edges == "none" else None
    if twin is not None:
        twin.load_state_dict(model.state_dict())
        again = twin.predict(fresh)
        assert torch.equal(again.tasks, model.predict(fresh).tasks)


def test_what_is_kept_is_what_the_definitions_say() -> None:
    model, x = taught("mlp")
    (a, y), (b, z) = data(x, 0), data(torch.randn_like(x), 0)
    known = know(model, 0, (a, y), (b, z))
    scores, features = look(model, a, 0)
    assert torch.equal(scores, model(a, 0)) and torch.equal(features, model.features(a, 0))
    for c in range(3):
        assert torch.allclose(known.means[c], features[y == c].mean(0), atol=1e-5)
    away = torch.stack([features[i] - known.means[y[i]] for i in range(len(a))]).double()
    covariance = sum(torch.outer(row, row) for row in away) / len(a)
    covariance += 0.1 * covariance.diagonal().mean() * torch.eye(len(covariance))
    inverse = torch.linalg.inv(covariance)
    logits_b, features_b = look(model, b, 0)
    energy = torch.log(torch.exp(logits_b / known.temperature).sum(1))
    distance = (
        torch.stack(
            [
                torch.einsum("ni,ij,nj->n", f, inverse, f).sqrt()
                for f in (features_b[None] - known.means[:, None]).double()
            ]
        ).amin(0)
        / len(covariance) ** 0.5
    )
    assert torch.allclose(known.energy(logits_b), energy, atol=1e-5)
    assert torch.allclose(known.nearness(features_b), -distance.float(), rtol=1e-3)
    calibrated = fit(model, 0, known, b).scores
    for row in (1, 2):
        assert abs(float(calibrated[row].mean())) < 1e-4
        assert abs(float(calibrated[row].std(correction=0)) - 1) < 1e-3
    assert torch.allclose(calibrated[3], calibrated[1] + calibrated[2])
    assert torch.allclose(calibrated[0], logits_b.softmax(1).amax(1))
    assert known.named().keys() and Known.of(known.named()) == known
    assert Known.of({**known.named(), "known/whitener": None}) is None


def test_the_best_score_wins() -> None:
    scores = torch.tensor([[[1.0, 5.0]] * 4, [[2.0, 4.0]] * 4])
    fits = {7: Fit(scores[0], torch.tensor([0, 1])), 9: Fit(scores[1], torch.tensor([2, 3]))}
    for found in choose(fits).values():
        assert found.tasks.tolist() == [9, 7] and found.classes.tolist() == [2, 1]


def test_bad_input() -> None:
    model, x = taught("mlp")
    for call, said in (
        (lambda: model.predict(x), "no task knows its own data"),
        (lambda: model.predict(x, "loudest"), "score is 'loudest': choose one of confidence, energy"),
        (lambda: model.know_task(8, data(x, 0), data(x, 0)), "task 8 has no committed mask"),
        (lambda: model.know_task(0, data(x, 0), data(x[:0], 0)), "no validation data"),
    ):
        with pytest.raises(InputError, match=said):
            call()


def test_a_task_without_moving_features_keeps_finite_numbers() -> None:
    class Still(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleDict({"0": nn.Linear(4, 2)})

        def forward(self, x: torch.Tensor, task: int) -> torch.Tensor:
            return self.heads[str(task)](x * 0)

    x, y = torch.randn(9, 4), torch.zeros(9, dtype=torch.long)  # and a class without samples
    known = know(Still(), 0, (x, y), (x, y))
    assert all(value.isfinite().all() for value in known.named().values())
    assert fit(Still(), 0, known, x).scores.isfinite().all()
