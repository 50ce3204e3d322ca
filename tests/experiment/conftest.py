import signal

import pytest

from dsn.experiment.result import files


@pytest.fixture(scope="module")
def quick_pictures():
    """Drawing takes as long as training in the smallest runs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_accuracy_matrix", "draw_neurons"):
            patch.setattr(files, name, lambda _result, path: path.touch())
        yield


@pytest.fixture(autouse=True)
def hang_ups_are_heard():
    """SIGHUP does what it does by default, also where the tests run under nohup, which ignores it."""
    before = signal.getsignal(signal.SIGHUP)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
