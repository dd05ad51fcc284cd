"""Widgets that draw lines they are given and remember nothing of the run."""
