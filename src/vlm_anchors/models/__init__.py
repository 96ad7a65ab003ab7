"""Everything that knows a checkpoint: loading, families, where attention to the image happens."""
