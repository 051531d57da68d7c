"""From a folder of annotated images to batches."""
