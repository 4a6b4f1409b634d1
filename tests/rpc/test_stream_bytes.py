"""Chunks are written by hand; protobuf's own writer is the oracle."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cutaway.v1 import introspect_pb2, tensor_pb2
from cutaway_server.introspection.events import Header, Piece, ScoresSubject
from cutaway_server.rpc.stream import encode_piece


@given(item=st.integers(1, 2**31), offset=st.integers(0, 2**40), data=st.binary(max_size=300))
@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_383, 16_384, 1 << 20])
def test_a_piece_reads_back_as_its_message(length: int, item: int, offset: int, data: bytes) -> None:
    data = (data or b"x") * (length // max(1, len(data)) + 1) if length else data
    for header in (None, Header(ScoresSubject(), torch.float32, (1, 2), 8)):
        written = encode_piece(Piece(item, header, offset, data[: length or None]))
        chunk = introspect_pb2.Chunk(item=item, offset=offset, data=data[: length or None])
        if header:
            chunk.header.dtype, chunk.header.total_bytes = tensor_pb2.DATA_TYPE_FLOAT32, 8
            chunk.header.encoding = introspect_pb2.ENCODING_RAW
            chunk.header.shape.extend((1, 2))
            chunk.header.scores.SetInParent()
        read = introspect_pb2.IntrospectResponse.FromString(written)
        assert read == introspect_pb2.IntrospectResponse(chunk=chunk)
        assert len(written) <= read.ByteSize() + 2  # an empty data field is written, too
