from cutaway.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PixelLayout(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PIXEL_LAYOUT_UNSPECIFIED: _ClassVar[PixelLayout]
    PIXEL_LAYOUT_NHWC: _ClassVar[PixelLayout]
    PIXEL_LAYOUT_NCHW: _ClassVar[PixelLayout]
    PIXEL_LAYOUT_NHW: _ClassVar[PixelLayout]
PIXEL_LAYOUT_UNSPECIFIED: PixelLayout
PIXEL_LAYOUT_NHWC: PixelLayout
PIXEL_LAYOUT_NCHW: PixelLayout
PIXEL_LAYOUT_NHW: PixelLayout

class Input(_message.Message):
    __slots__ = ("name", "tensor", "images", "layout")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    name: str
    tensor: _tensor_pb2.Tensor
    images: EncodedImages
    layout: PixelLayout
    def __init__(self, name: _Optional[str] = ..., tensor: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., images: _Optional[_Union[EncodedImages, _Mapping]] = ..., layout: _Optional[_Union[PixelLayout, str]] = ...) -> None: ...

class EncodedImages(_message.Message):
    __slots__ = ("files",)
    FILES_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, files: _Optional[_Iterable[bytes]] = ...) -> None: ...
