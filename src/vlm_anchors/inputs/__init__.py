"""Images and prompts, from what a user passes to what a processor takes."""
