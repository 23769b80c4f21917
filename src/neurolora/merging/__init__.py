"""Several adapters together: what they have against each other, and one adapter made of them."""
