"""A comparison: several strategies over several seeds, tuned alike, and its statistics."""
