"""Choosing the weights of a merge: by labelled validation rows, or by unlabelled prompts alone.

Room: coefficients, above merging and evaluation. The command `merge --search` calls it.
"""

from neurolora.coefficients.search import SearchResult, search_weights

__all__ = ["SearchResult", "search_weights"]
