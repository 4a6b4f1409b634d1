"""The only room that knows protobuf and gRPC: decode, call, encode."""
