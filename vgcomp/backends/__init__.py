"""What runs or carries away an optimized Program."""
