"""What this machine has and what a training step will need."""
