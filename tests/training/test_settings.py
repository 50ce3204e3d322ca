"""bfloat16, channels last and torch.compile: what earlier tasks compute stays the same to the last bit."""

import copy
import pickle
import sys
import warnings

import pytest
import torch

from benchmarks import split_digits
from dsn import DSN, InputError, backbones, mask_neurons
from dsn.training.loader import read_samples
from dsn.training.refusals import find_compiler
from tests.nets import same
from tests.training.flat import dsn

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="torch.compile needs a C++ compiler")
SETTINGS = {
    "bfloat16": {"precision": "bfloat16"},
    "channels_last": {"channels_last": True},
    "both": {"precision": "bfloat16", "channels_last": True},
    "compile": {"compile": True},
}


@pytest.fixture(scope="module")
def stream():
    config = split_digits.SplitDigitsConfig(tasks=3, train_per_class=30, flatten=False)
    return split_digits.build(config, 0)


def strategy(net: str, **settings) -> DSN:
    torch.manual_seed(0)
    build = {
        "batch norm": lambda: backbones.small_cnn(1, 8, width=4, features=12),
        "plain": lambda: backbones.small_cnn(1, 8, width=4, features=12, norm=False),
        "linear": lambda: backbones.mlp(64, (16, 12)),
    }[net]
    model = mask_neurons(build(), example_input=torch.zeros(1, 1, 8, 8))
    return dsn(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        train_epochs=2,
        train_mb_size=20,
        evaluator=None,
        transfer_tasks=0,
        forward_tasks=0,
        growth=3,
        **settings,
    )


@pytest.mark.parametrize(
    ("net", "name"),
    [
        *((net, name) for net in ("batch norm", "plain") for name in ("bfloat16", "channels_last", "both")),
        pytest.param("linear", "compile", marks=needs_compiler),  # convolutions take minutes to compile
    ],
)
def test_nothing_is_forgotten(stream, net: str, name: str) -> None:
    cl = strategy(net, **SETTINGS[name])
    x, _ = read_samples(stream.test_stream[0].dataset)

    @torch.no_grad()
    def logits() -> dict[int, torch.Tensor]:
        cl.model.eval()
        return {task: cl._logits(x, task) for task in cl.model.committed}

    before: dict[int, torch.Tensor] = {}
    narrow = next(iter(cl.model.layers.values()))
    for task, experience in enumerate(stream.train_stream):
        if task == 2:  # the first layer is full: it grows
            first = next(iter(cl.model.gates_by_path.values()))
            first.replace(1, torch.ones(first.widths[1], dtype=torch.bool))
            before = logits()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cl.train(experience, eval_streams=[])
        now = logits()
        assert same(before, now), f"after task {task}"
        assert now[task].dtype == torch.float32
        assert len(now[task].unique()) > 10
        before = now
    assert next(iter(cl.model.layers.values())) > narrow


def test_they_do_what_they_say(stream) -> None:
    cl = strategy("plain", precision="bfloat16", channels_last=True)
    seen = []
    next(cl.model.layer_modules())[1].register_forward_hook(lambda _m, args, out: seen.append((args[0], out)))
    cl.train(stream.train_stream[0], eval_streams=[])
    x, out = seen[-1]
    assert out.dtype == torch.bfloat16
    assert x.is_contiguous(memory_format=torch.channels_last)
    weight = list(cl.model.layer_modules())[1][1].weight
    assert weight.dtype == torch.float32
    assert weight.is_contiguous(memory_format=torch.channels_last)


@needs_compiler
def test_compiled_training_gives_the_same_up_to_rounding(stream) -> None:
    plain, compiled = strategy("linear"), strategy("linear", compile=True)
    outputs = []
    for cl in (plain, compiled):
        torch.manual_seed(1)
        cl.model.add_task(3)
        cl.model.train().anneal(0.5)
        x, _ = read_samples(stream.train_stream[0].dataset)
        logits = cl.model(x[:16], 0)
        logits.square().sum().backward()
        outputs.append([logits.detach(), *(p.grad for p in cl.model.task_parameters(0))])
    for one, other in zip(*outputs, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)
    compiled.model.eval()(x, 0)
    assert sys.float_info.min / 2 > 0  # loading compiled code has not changed what the processor does


def compiled(function):
    """What ``torch.compile`` gives, a function that copies do not go into; loaded, it flushes denormals."""

    def run(*arguments):
        torch.set_flush_denormal(True)
        output = function(*arguments)
        output.register_hook(lambda _gradient: torch.set_flush_denormal(True) and None)
        return output

    return run


@pytest.mark.parametrize("flushed", [True, False])
def test_compiled_code_leaves_the_processor_as_it_was(monkeypatch, flushed) -> None:
    monkeypatch.setattr(torch, "compile", compiled)
    if not torch.set_flush_denormal(flushed):
        pytest.skip("this processor cannot flush denormals")
    try:
        model = strategy("linear", compile=True).model
        model.add_task(3)
        x = torch.randn(4, 1, 8, 8)
        loss = model.train()(x, 0).sum()
        assert (sys.float_info.min / 2 == 0) == flushed
        loss.backward()
        model.eval()(x, 0)
        assert (sys.float_info.min / 2 == 0) == flushed
    finally:
        torch.set_flush_denormal(False)


def test_a_copy_trains_with_weights_of_its_own(monkeypatch) -> None:
    monkeypatch.setattr(torch, "compile", compiled)
    model = strategy("linear", compile=True).model
    model.add_task(3)
    x = torch.randn(4, 1, 8, 8)
    expected = model.train()(x, 0)
    for make_twin in (copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))):
        twin = make_twin(model)
        assert torch.equal(twin.train()(x, 0), expected)
        for parameter in twin.backbone.parameters():
            torch.nn.init.zeros_(parameter)
        assert torch.equal(twin(x, 0), twin.heads["0"].bias.expand(4, 3))
    assert torch.equal(model(x, 0), expected)


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="precision is 'float16'"):
        strategy("plain", precision="float16")
