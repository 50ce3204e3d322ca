"""Measurements that are no runs: transfer beside its controls, ablations, topology."""
