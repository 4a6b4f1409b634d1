"""The wing of Introspect: plan what to take, run on a mirror with hooks, hand each tensor on while the network still runs."""
