"""The closed form of Node-Path Balancing against a mixed-integer solver."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from dsn.topology.balancing import balance, relative, weights

CASES = 320


def objective(placed, worth, scales):
    """What the closed form maximises, counted on the placement itself."""
    node, path, kernel = scales
    live = placed * (worth > 0)
    nodes = (live.sum(0) > 0).sum() + (live.sum(1) > 0).sum()
    return node * nodes + path * (placed @ worth).sum() + kernel * (live > 0).sum()


def solved(worth, n, taps, count, scales):
    """The largest objective that a mixed-integer solver finds."""
    node, path, kernel = scales
    d, reached = len(worth), worth > 0
    cells = n * d
    # variables: taps [n, d], kernel used [n, d], input used [d], neuron used [n]
    gain = np.concatenate(
        [np.tile(path * worth, n), np.tile(kernel * reached, n), node * reached, np.full(n, node)]
    )
    rows = [np.concatenate([np.ones(cells), np.zeros(cells + d + n)])]
    limits = [count]
    for cell in range(cells):  # a kernel is used only with a tap
        row = np.zeros(len(gain))
        row[cell], row[cells + cell] = -1, 1
        rows.append(row)
    for i in range(d):
        row = np.zeros(len(gain))
        row[i:cells:d], row[2 * cells + i] = -1, 1
        rows.append(row)
    for j in range(n):
        row = np.zeros(len(gain))
        row[j * d : (j + 1) * d], row[2 * cells + d + j] = -1.0 * reached, 1
        rows.append(row)
    limits += [0] * (len(rows) - 1)
    upper = np.concatenate([np.full(cells, taps), np.ones(cells + d + n)])
    found = milp(
        -gain,
        constraints=LinearConstraint(np.stack(rows), ub=np.array(limits)),
        bounds=Bounds(0, upper),
        integrality=np.ones(len(gain)),
        options={"mip_rel_gap": 0.0},
    )
    assert found.success, found.message
    return -found.fun


def test_equal_to_the_solver_on_random_layers():
    random = np.random.default_rng(0)
    for _ in range(CASES):
        n, d, taps = random.integers(1, 5), random.integers(1, 5), random.choice([1, 1, 2, 4])
        count = int(random.integers(1, n * d * taps + 1))
        paths = random.integers(0, 6, d) * random.choice([1, 100], d)
        with np.errstate(divide="ignore"):
            logs = np.log(paths.astype(float))
        alpha, beta = random.choice([0.0, 0.01, 0.3, 0.7, 1.0]), random.choice([0.0, 0.01, 0.5, 1.0])
        evenly = bool(random.integers(2))
        placed = balance(logs, n, taps, count, alpha=alpha, beta=beta, random=random, evenly=evenly)
        assert placed.shape == (n, d)
        assert placed.sum() == count
        assert placed.min() >= 0 and placed.max() <= taps
        worth = relative(logs)
        scales = weights(worth, n, taps, count, alpha=alpha, beta=beta)
        best = solved(worth, n, taps, count, scales)
        assert objective(placed, worth, scales) == pytest.approx(best, rel=1e-9, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 9]), st.floats(0, 1), st.integers(0, 10**6)
)
def test_the_budget_is_met_and_equal_inputs_share_evenly(n, d, taps, share, seed):
    count = round(share * n * d * taps)
    random = np.random.default_rng(seed)
    placed = balance(np.full(d, 2000.0), n, taps, count, alpha=0.5, beta=0.5, random=random)
    assert placed.sum() == count
    assert np.ptp(placed.sum(0)) <= 1 and np.ptp(placed.sum(1)) <= 1 and placed.max(initial=0) <= taps


def test_a_layer_of_512_by_512_takes_under_a_tenth_of_a_second():
    random = np.random.default_rng(0)
    logs = random.normal(size=512)
    seconds = []
    for _ in range(3):
        started = time.process_time()
        balance(logs, 512, 9, 100_000, alpha=0.5, beta=1.0, random=random)
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.1
