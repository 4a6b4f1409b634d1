"""Pictures of maps, drawn as the client draws them."""

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from cutaway import Affine, pictures
from cutaway_server.introspection.call import Draw
from cutaway_server.introspection.plan_cams import Picture
from cutaway_server.models.preprocessing import Placement

_LARGEST = 2048  # pixels: the longer side of an overlay


def drawer(photographs: Sequence[Image.Image]) -> Draw:
    """What draws maps of these photographs, one a sample.

    An overlay of a photograph with a side above 2048 pixels is drawn on it reduced to that.
    """

    def draw(picture: Picture, values: Tensor, placements: tuple[Placement, ...], sample: int, size: tuple[int, ...]) -> bytes:
        array = values.cpu().numpy()
        if picture is Picture.HEAT_MAP:
            height, width = size
            return pictures.png(pictures.heat(array, width, height))
        photograph, (place,) = photographs[sample], placements
        share = min(1.0, _LARGEST / max(photograph.size))
        if share < 1:
            photograph = photograph.resize((round(photograph.width * share), round(photograph.height * share)))
        return pictures.png(pictures.overlay(photograph, array, Affine(*(number * share for number in place))))

    return draw
