"""Training SANE: one loop for pre-training, distilling and the baseline of 2021."""
