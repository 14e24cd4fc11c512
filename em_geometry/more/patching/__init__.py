"""Which components carry a vector's effect, and whether two vectors share them."""
