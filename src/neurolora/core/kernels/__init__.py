"""Fast paths of the adapter's update, each equal to `core/update.py` and checked against it."""

from neurolora.core.kernels.choice import Kernels, fast_paths_apply, use_kernels
from neurolora.core.kernels.decode import MAX_DECODE_TOKENS, DecodePack, decode_pack
from neurolora.core.kernels.group import RouteSpec
from neurolora.core.kernels.routing import Routed, join_blocks, route
from neurolora.core.kernels.selection import fast_top_k_mask
from neurolora.core.kernels.up_projection import add_update

__all__ = [
    "MAX_DECODE_TOKENS",
    "DecodePack",
    "Kernels",
    "RouteSpec",
    "Routed",
    "add_update",
    "decode_pack",
    "fast_paths_apply",
    "fast_top_k_mask",
    "join_blocks",
    "route",
    "use_kernels",
]
