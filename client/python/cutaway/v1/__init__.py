"""Messages and stubs generated from protos/cutaway/v1 by `make protos`. Never edited."""
