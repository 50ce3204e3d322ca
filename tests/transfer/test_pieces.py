import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dsn.masking.recognition.calibration import TEMPERATURES, fit_temperature
from dsn.transfer.assessment import assess, predict, remembered
from dsn.transfer.correspondence import correspond
from dsn.transfer.linear import fit_head
from tests.nets import learn, make


@settings(max_examples=15, deadline=None)
@given(st.floats(0.3, 8.0), st.integers(2, 6))
def test_temperature_is_recovered(temperature: float, classes: int) -> None:
    """Labels drawn from softmax(z): logits z * T need the temperature T."""
    random = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(4000, classes, generator=random)
    y = torch.multinomial(z.softmax(1), 1, generator=random).flatten()
    assert abs(fit_temperature(z * temperature, y) / temperature - 1) < 0.15


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6), st.floats(-3.0, 3.0), st.floats(0.0, 1.0)
)
def test_no_temperature_of_the_grid_is_better(
    seed: int, samples: int, classes: int, size: float, wrong: float
) -> None:
    """Logits of sizes 0.001 to 1000, of which from none to all are those of another class."""
    random = torch.Generator().manual_seed(seed)
    logits = 10**size * torch.randn(samples, classes, generator=random)
    noise = torch.randint(classes, (samples,), generator=random)
    y = torch.where(torch.rand(samples, generator=random) < wrong, noise, logits.argmax(1))
    losses = torch.stack([F.cross_entropy(logits / t, y) for t in TEMPERATURES.tolist()])
    found = losses[int((TEMPERATURES - fit_temperature(logits, y)).abs().argmin())]
    assert found <= losses.min() * (1 + 1e-5) + 1e-7


def test_the_fitted_head_is_a_minimum() -> None:
    """Against autograd: at the fit, the gradient of the penalised loss on standardised features is 0."""
    random = torch.Generator().manual_seed(0)
    x = 3 + 5 * torch.randn(300, 6, generator=random)
    y = (x[:, 0] > 3).long() + (x[:, 1] > 3).long()
    weight, bias = fit_head(x, F.one_hot(y, 3).float())
    accuracy = (F.linear(x, weight, bias).argmax(1) == y).float().mean()
    assert accuracy > 0.7
    mean, std = x.mean(0), x.std(0)
    w, b = (weight * std).requires_grad_(), (bias + weight @ mean).requires_grad_()
    best = min(
        float(torch.cat([g.flatten() for g in torch.autograd.grad(loss, (w, b))]).abs().max())
        for penalty in (1e-4, 1e-3, 1e-2, 1e-1)
        for loss in [F.cross_entropy(F.linear((x - mean) / std, w, b), y) + penalty * w.square().sum()]
    )
    assert best < 1e-3


@pytest.mark.parametrize("width", [30, 700])
def test_the_fit_is_as_good_as_one_to_the_end_at_a_tenth_of_its_cost(width: int) -> None:
    """Passes over the features are counted; features that never change cost nothing."""
    random = torch.Generator().manual_seed(0)
    mixed = torch.randn(40, width, generator=random)
    centres = torch.randn(5, 40, generator=random)
    y = torch.randint(0, 5, (900,), generator=random)
    x = (centres[y] + 1.5 * torch.randn(900, 40, generator=random)) @ mixed
    x, new, y, truth = x[:300], x[300:], F.one_hot(y[:300], 5).float(), y[300:]
    with FlopCounterMode(display=False) as fewer:
        weight, bias = fit_head(x, y)
    one = 2 * x.numel() * 5
    turning = 2 * 2 * len(x) * width * min(width, 512)
    assert fewer.get_total_flops() < 180 * one + turning
    with FlopCounterMode(display=False) as same:
        wide, _ = fit_head(torch.cat([x, torch.ones(300, 500)], 1), y)
    assert same.get_total_flops() < 1.2 * fewer.get_total_flops() + 2 * 300 * 500 * 5
    assert torch.equal(wide[:, width:], torch.zeros(5, 500))
    found = F.cross_entropy(F.linear(new, weight, bias), truth)
    assert found < 1.2 * min(_fitted_to_the_end(x, y, new, truth))


def _fitted_to_the_end(x: Tensor, y: Tensor, new: Tensor, truth: Tensor) -> list[float]:
    """Cross-entropy on new samples of a plain fit of 300 steps, for each penalty."""
    mean, std = x.mean(0), x.std(0)
    losses = []
    for penalty in (1e-4, 1e-3, 1e-2, 1e-1):
        w, b = torch.zeros(5, x.shape[1], requires_grad=True), torch.zeros(5, requires_grad=True)
        optimizer = torch.optim.LBFGS([w, b], max_iter=300, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()  # noqa: B023
            value = F.cross_entropy(F.linear((x - mean) / std, w, b), y) + penalty * w.square().sum()  # noqa: B023
            value.backward()
            return value

        optimizer.step(loss)
        losses.append(F.cross_entropy(F.linear((new - mean) / std, w, b), truth).item())
    return losses


def test_dead_features_do_no_harm() -> None:
    x = torch.zeros(20, 4)
    x[:, 0] = torch.arange(20.0)
    weight, bias = fit_head(x, F.one_hot((torch.arange(20) > 9).long(), 2).float())
    assert weight.isfinite().all()
    assert bias.isfinite().all()


def test_assessment_is_what_a_loop_counts() -> None:
    model, x = make("mlp")
    learn(model, x, 0)
    y = torch.arange(len(x)) % 3
    assess(model, 0, x, y, samples=77)
    guesses = predict(model, x, 0).argmax(1)
    right = [int(g) == int(t) for g, t in zip(guesses, y, strict=True)]
    assert abs(remembered(model, 0, "accuracy") - sum(right) / len(right)) < 1e-6
    for c in range(3):
        mine = [r for r, t in zip(right, y, strict=True) if t == c]
        assert abs(float(model.record(0).get("class_accuracy")[c]) - sum(mine) / len(mine)) < 1e-6
    assert remembered(model, 0, "samples") == 77
    assert remembered(model, 0, "nothing") is None


@given(st.permutations(range(4)), st.integers(4, 6))
def test_correspondence_finds_a_permutation(order: list[int], classes: int) -> None:
    """Labels that are the earlier task's own answers, renamed, are matched back exactly."""

    class Answers:
        device = torch.device("cpu")
        training = False

        def named_children(self):
            return []

        def eval(self):
            return self

        def features(self, x, task):
            return x

        heads = {"0": torch.nn.Identity()}

        def record(self, task):
            return {}

    z = 5 * torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    names = list(order) + list(range(4, classes))
    y = torch.tensor(names)[z.argmax(1)]
    found = correspond(Answers(), 0, z, y, classes)
    assert found.match.tolist() == names[:4]
    assert found.agreement == found.accuracy == 1.0
    assert correspond(Answers(), 0, z, y, 3) is None
