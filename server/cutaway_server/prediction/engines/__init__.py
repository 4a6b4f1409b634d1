"""What runs a batch for Predict. One file each."""
