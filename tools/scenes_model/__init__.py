"""Trains the bundled model from nothing and measures it. Not part of the installed package."""
