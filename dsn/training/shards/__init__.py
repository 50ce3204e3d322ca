"""One run in parts: each batch is cut, parts are computed by one process or several, to the same last bit."""

from .tree import TreeSum, cut
from .update import ShardedUpdate

__all__ = ["ShardedUpdate", "TreeSum", "cut"]
