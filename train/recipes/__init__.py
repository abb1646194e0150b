"""Recipes: what differs from the defaults, one TOML file each."""
