"""What a method costs: time and memory as ratios to the plain model, in one run. Imports nothing heavy."""
