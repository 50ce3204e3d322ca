"""Lists of seeds on the command line."""

from dsn.errors import InputError


def parse_seeds(text: str, option: str = "--seeds") -> list[int]:
    """The seeds in ``0,1,2``. Raises InputError unless they are different whole numbers below 2^32."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option} {text}: must be whole numbers with commas between, e.g. 0,1,2") from None
    if any(not 0 <= seed < 2**32 for seed in seeds):
        raise InputError(f"{option} {text}: every seed must lie between 0 and 4294967295")
    if len(set(seeds)) < len(seeds):
        raise InputError(f"{option} {text}: a seed stands twice")
    return seeds
