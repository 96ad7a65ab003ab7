"""The second branch of contrastive methods: what it reads, its cache, the vision tower, and prefixes read once."""
