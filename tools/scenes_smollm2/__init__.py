"""Trains the projector and the LoRA of `scenes-smollm2` and checks its gates. Not part of the installed package."""
