"""What generated networks are worth: fine-tuned beside controls under one schedule, and how new they are."""
