"""What generation costs: tokens a second and peak memory of a bare backbone, with δ-mem, and with a LoRA."""
