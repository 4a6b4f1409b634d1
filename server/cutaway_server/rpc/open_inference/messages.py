"""The messages of the Open Inference Protocol, in a descriptor pool of their own.

Any client of the protocol registers its copy of package `inference` in the pool that all generated code shares, and a second copy
there is an error: so server and clients could not be imported into one process.

`make protos` writes what is read here, and messages.pyi, which names the classes.
"""

from importlib.resources import files

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClassesForFiles

(_FILE,) = FileDescriptorSet.FromString(files(__package__).joinpath("open_inference.binpb").read_bytes()).file
_POOL = DescriptorPool()
_POOL.AddSerializedFile(_FILE.SerializeToString())
DESCRIPTOR = _POOL.FindFileByName(_FILE.name)
globals().update({name.removeprefix("inference."): kind for name, kind in GetMessageClassesForFiles([_FILE.name], _POOL).items()})
