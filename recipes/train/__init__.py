"""Trains MobileViT from scratch: ``python -m recipes.train --help``."""
