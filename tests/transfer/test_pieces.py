import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dsn.transfer.assessment import assess, fit_temperature, predict, remembered
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

        def modules(self):
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
