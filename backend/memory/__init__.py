"""The memory that the steps of a run need, predicted or measured, and the batch size that follows from it."""
