"""Start-up and shutdown, configuration, and the command `cutaway serve`."""
