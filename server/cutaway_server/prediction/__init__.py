"""The wing of Predict: a batcher of what waits, and the engines that run a batch."""
