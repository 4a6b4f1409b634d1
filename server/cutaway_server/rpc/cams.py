"""Class activation maps on the wire: requests to what the wing takes, and what it gives to messages."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from cutaway.v1 import introspect_pb2
from cutaway_server.errors import BadInput
from cutaway_server.introspection import events
from cutaway_server.introspection.cam.method import Join, Options
from cutaway_server.introspection.faithfulness import Measures
from cutaway_server.introspection.map_shapes import Fusion, Normalisation, Scaling, Upsampling
from cutaway_server.introspection.nothing import Note, Nothing
from cutaway_server.introspection.plan_cams import MAX_POINTS, CamRequest, Picture, PlannedCam
from cutaway_server.rpc.decode import decode_target
from cutaway_server.rpc.tensors import duration

K = TypeVar("K", bound=int)
T = TypeVar("T")
_JOINS = {
    introspect_pb2.CHANNEL_JOIN_SUM: Join.SUM,
    introspect_pb2.CHANNEL_JOIN_PRINCIPAL: Join.PRINCIPAL,
    introspect_pb2.CHANNEL_JOIN_LARGEST: Join.LARGEST,
    introspect_pb2.CHANNEL_JOIN_NONE: Join.NONE,
}
_FUSIONS = {
    introspect_pb2.FUSION_MEAN: Fusion.MEAN,
    introspect_pb2.FUSION_MAX: Fusion.MAX,
    introspect_pb2.FUSION_PRODUCT: Fusion.PRODUCT,
}
_NORMALISATIONS = {
    introspect_pb2.NORMALISATION_NONE: Normalisation.NONE,
    introspect_pb2.NORMALISATION_MIN_MAX: Normalisation.MIN_MAX,
    introspect_pb2.NORMALISATION_MAX: Normalisation.MAX,
}
_UPSAMPLINGS = {
    introspect_pb2.UPSAMPLING_NONE: Upsampling.NONE,
    introspect_pb2.UPSAMPLING_BILINEAR: Upsampling.BILINEAR,
    introspect_pb2.UPSAMPLING_NEAREST: Upsampling.NEAREST,
}
_PICTURES = {
    introspect_pb2.CAM_PICTURE_HEAT_MAP: Picture.HEAT_MAP,
    introspect_pb2.CAM_PICTURE_OVERLAY: Picture.OVERLAY,
}
_FORMS = {
    events.CamForm.RAW: introspect_pb2.CAM_FORM_RAW,
    events.CamForm.SCALED: introspect_pb2.CAM_FORM_SCALED,
    events.CamForm.HEAT_MAP: introspect_pb2.CAM_FORM_HEAT_MAP,
    events.CamForm.OVERLAY: introspect_pb2.CAM_FORM_OVERLAY,
}
_NOTHINGS = {
    Nothing.DEAD_LAYER: introspect_pb2.CAM_NOTHING_DEAD_LAYER,
    Nothing.SATURATED: introspect_pb2.CAM_NOTHING_SATURATED,
    Nothing.GRADIENT_VANISHED: introspect_pb2.CAM_NOTHING_GRADIENT_VANISHED,
    Nothing.NOTHING_POSITIVE: introspect_pb2.CAM_NOTHING_NOTHING_POSITIVE,
    Nothing.CANCELLED: introspect_pb2.CAM_NOTHING_CANCELLED,
    Nothing.NOT_FINITE: introspect_pb2.CAM_NOTHING_NOT_FINITE,
}
_POINTS = 16  # of a curve, where the request has none


def decode_cams(messages: Sequence[introspect_pb2.Cam]) -> list[CamRequest]:
    """Which maps are to be made.

    Raises:
        BadInput: names the field.
    """
    return [_decode_cam(message, f"cams[{index}]") for index, message in enumerate(messages)]


def wants_overlays(messages: Sequence[introspect_pb2.Cam]) -> bool:
    """Whether maps are to be drawn on the pictures that were sent."""
    return any(introspect_pb2.CAM_PICTURE_OVERLAY in message.pictures for message in messages)


def _decode_cam(message: introspect_pb2.Cam, field: str) -> CamRequest:
    settings = message.settings
    if settings.score not in introspect_pb2.Score.values():
        raise BadInput(f"{field}.settings.score", f"value {settings.score}", "MODEL or PROBABILITY")
    if message.target.HasField("top_k") and not message.target.top_k.k:
        raise BadInput(f"{field}.target.top_k.k", "0", "1 or more")
    if message.faithfulness.steps > MAX_POINTS:
        raise BadInput(f"{field}.faithfulness.steps", str(message.faithfulness.steps), f"0 to {MAX_POINTS}")
    scaling = Scaling(
        _choice(_NORMALISATIONS, message.scaling.normalisation, f"{field}.scaling.normalisation") or Normalisation.NONE,
        _choice(_UPSAMPLINGS, message.scaling.upsampling, f"{field}.scaling.upsampling") or Upsampling.NONE,
    )
    return CamRequest(
        field=field,
        method=message.method,
        layers=tuple(message.layers),
        target=decode_target(message.target, f"{field}.target", settings.score == introspect_pb2.SCORE_PROBABILITY),
        top_k=message.target.top_k.k,
        relu=settings.relu if settings.HasField("relu") else None,
        join=_choice(_JOINS, settings.join, f"{field}.settings.join"),
        augment=settings.augment,
        options=Options(settings.steps, tuple(settings.window), tuple(settings.stride)),
        fusion=_choice(_FUSIONS, message.fusion, f"{field}.fusion") or Fusion.MEAN,
        scaling=scaling if message.HasField("scaling") else None,
        pictures=_decode_pictures(message.pictures, f"{field}.pictures"),
        points=(message.faithfulness.steps or _POINTS) if message.HasField("faithfulness") else 0,
    )


def _decode_pictures(kinds: Sequence[introspect_pb2.CamPicture], field: str) -> tuple[Picture, ...]:
    for kind in kinds:
        if kind not in _PICTURES:
            raise BadInput(field, f"value {kind}", "HEAT_MAP or OVERLAY")
    return tuple(dict.fromkeys(_PICTURES[kind] for kind in kinds))  # each once


def _choice(choices: Mapping[K, T], value: K, field: str) -> T | None:
    """What an enum's value stands for; None for unspecified."""
    if value == 0:
        return None
    if value not in choices:
        raise BadInput(field, f"value {value}", "one that the contract names")
    return choices[value]


def encode_planned_cam(cam: PlannedCam) -> introspect_pb2.PlannedCam:
    """A map that will come."""
    return introspect_pb2.PlannedCam(
        cam=cam.index,
        method=cam.method.name,
        layers=[layer.name for layer in cam.layers],
        rank=cam.target.rank,
        forward_passes=cam.making.forward,
        backward_passes=cam.making.backward,
        faithfulness_forward_passes=cam.judging.forward,
        faithfulness_backward_passes=cam.judging.backward,
        shape=cam.shape,
    )


def encode_cam(subject: events.CamSubject) -> introspect_pb2.CamHeader:
    """Which map an item is."""
    cam = subject.cam
    header = introspect_pb2.CamHeader(
        cam=cam.index,
        method=cam.method.name,
        layers=[layer.name for layer in cam.layers],
        classes=subject.classes,
        settings=_encode_settings(cam),
        placement=[introspect_pb2.Affine(**placement._asdict()) for placement in subject.placements],
        rank=cam.target.rank,
        against=subject.against,
        form=_FORMS[subject.form],
        sample=subject.sample,
        notes=[_encode_note(note) for note in subject.notes],
        fusion=_key(_FUSIONS, cam.fusion) if len(cam.layers) > 1 else introspect_pb2.FUSION_UNSPECIFIED,
    )
    if subject.form is events.CamForm.SCALED and cam.scaling:
        header.scaling.normalisation = _key(_NORMALISATIONS, cam.scaling.normalisation)
        header.scaling.upsampling = _key(_UPSAMPLINGS, cam.scaling.upsampling)
    return header


def _encode_settings(cam: PlannedCam) -> introspect_pb2.CamSettings:
    return introspect_pb2.CamSettings(
        relu=cam.relu,
        score=introspect_pb2.SCORE_PROBABILITY if cam.target.probability else introspect_pb2.SCORE_MODEL,
        join=_key(_JOINS, cam.join),
        augment=cam.augment,
        steps=cam.options.steps,
        window=cam.options.window,
        stride=cam.options.stride,
    )


def _encode_note(note: Note) -> introspect_pb2.CamNote:
    return introspect_pb2.CamNote(sample=note.sample, reason=_NOTHINGS[note.why], message=note.why.value)


def encode_judged(event: events.Judged) -> introspect_pb2.Faithfulness:
    """Measures of a map, and of the random one."""
    return introspect_pb2.Faithfulness(
        cam=event.cam.index,
        rank=event.cam.target.rank,
        map=_encode_measures(event.measures),
        random=_encode_measures(event.random),
        steps=event.cam.points,
    )


def _encode_measures(measures: Measures) -> introspect_pb2.Measures:
    return introspect_pb2.Measures(**{name: values.tolist() for name, values in vars(measures).items()})


def encode_cost(cost: events.CamCost) -> introspect_pb2.CamTiming:
    """What a map cost."""
    spent = {name: duration(cost.seconds.get(stage, 0.0)) for name, stage in _STAGES.items()}
    return introspect_pb2.CamTiming(cam=cost.cam, rank=cost.rank, **spent)


_STAGES = {"map": "cam", "faithfulness": "faithfulness", "pictures": "pictures"}


def _key(choices: Mapping[T, object], value: object) -> T:
    return next(key for key, choice in choices.items() if choice is value)
