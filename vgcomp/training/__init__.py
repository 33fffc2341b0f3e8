"""Training: few-step adversarial fine-tuning (SnapGen-V) and supernets of shared weights (SNED), with resume."""
