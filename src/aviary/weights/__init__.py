"""Weights: from an address to a local file, through one content-addressed cache.

`cache.WeightCache` is the way in; `sources` knows which kinds of address there are.
"""
