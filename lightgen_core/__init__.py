"""The models and the mathematics: plain PyTorch and numpy, usable in a notebook without the rest."""
