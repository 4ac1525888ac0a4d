"""The model: BLIP's modules on SDPA, and what LiteVL adds to them."""
