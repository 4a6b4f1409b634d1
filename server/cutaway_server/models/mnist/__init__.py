"""The built-in networks for handwritten digits, their weights, the command that trains them, and a few digits."""
