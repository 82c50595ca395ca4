"""Writing networks: sample latents near anchors, restore weights, and evaluate them honestly."""
