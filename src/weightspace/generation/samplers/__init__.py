"""Samplers: fitted to the latents of anchors, they draw latents of new networks. One a file."""
