"""LoRA training on anchored sequences: data, adapters, presets, and a wrapper of trl's SFTTrainer. Light to import."""
