"""Experiments, by rooms; imports go down only: report > compare, labs > run > result > config > base."""
