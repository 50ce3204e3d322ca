"""Whatever a transfer gives a task, its subnetwork has it: every mechanism, forward transfer or not."""

import pytest
import torch

from dsn.transfer import MECHANISMS, Situation, attempt, transfer_forward
from dsn.transfer.correspondence import Correspondence
from tests.masking.test_subnetwork import assert_same
from tests.transfer.test_backward import CLASSES, fake_replay
from tests.transfer.test_forward import three_tasks

pytestmark = pytest.mark.filterwarnings("ignore:task .* no free neuron")


@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
@pytest.mark.parametrize("forward", [False, True], ids=["alone", "forward first"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_cut_task_computes_what_a_transfer_made_of_it(
    mechanism: str, forward: bool, near: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, y = three_tasks("small_cnn")
    if forward:
        assert transfer_forward(model, 1, x, y, (x, y), tasks=8) is not None
        assert len(model.lateral_heads(1)) == 1
    for source in (2, 2):  # the second takes the place of the first
        given = Situation(model, 1, source, x, torch.arange(len(x)) % CLASSES, fake_replay(model, x))
        monkeypatch.setattr(Correspondence, "near", property(lambda _: near))
        attempt(given, mechanism, "always")
    if mechanism == "expert" or (mechanism in ("correspondence", "anchored") and not near):
        assert any(lateral.pooled for lateral in model.lateral_heads(1))
    for task in range(3):
        assert_same(model.subnetwork(task), model, x[:20], task)
