"""Networks of one's own: a file below IMAGEKIN_WEIGHTS_DIR, and a JSON of the same name that describes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from imagekin import errors
from imagekin.catalog import files
from imagekin.enums import Fit

OWN = "own/"
"""How the names of these networks begin, and the folder that they lie in."""

KINDS = (".pt", ".pt2", ".onnx")
"""TorchScript, programs of torch.export, and ONNX."""

_MOST_BYTES = 1 << 16
_LONGEST_NAME = 200
_ERRORS_NAMED = 3

_Pixels = Annotated[int, Field(ge=8, le=4096)]
_Sides = _Pixels | tuple[_Pixels, _Pixels]
_Mean = Annotated[float, Field(ge=0, le=1)]
_Std = Annotated[float, Field(gt=0, le=1)]


class Description(BaseModel):
    """What the JSON says of a network; what a field should be is its description, in messages and in the docs."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    dim: int = Field(ge=1, le=1 << 16, description="how many numbers the vector of a picture has")
    input: _Sides = Field(
        description="the size of the picture that the network takes, in pixels: a number, or [height, width]"
    )
    mean: tuple[_Mean, _Mean, _Mean] = Field(
        description="what is subtracted from red, green and blue, whose values are 0 to 1: three numbers from 0 to 1"
    )
    std: tuple[_Std, _Std, _Std] = Field(description="what they are divided by then: three numbers above 0, at most 1")
    resize: _Sides | None = Field(
        default=None,
        description="the size of a picture before the middle is cut out, at least `input`: a number, which is its "
        "shorter side, or [height, width]; without it, `input`",
    )
    fit: Fit = Field(default=Fit.CROP, description="`crop` (without it), `pad` or `squash`")
    interpolation: Literal["bilinear", "bicubic"] = Field(
        default="bilinear", description="`bilinear` (without it) or `bicubic`"
    )
    output: str | Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="the name or the position (from 0) of the output that is the vector, if there are several",
    )

    @field_validator("resize")
    @classmethod
    def _no_smaller(cls, resize: _Sides | None, info: ValidationInfo) -> _Sides | None:
        given = info.data.get("input")
        if (
            resize is not None
            and given is not None
            and any(a < b for a, b in zip(_pair(resize), _pair(given), strict=True))
        ):
            raise ValueError("smaller than the input")
        return resize


@dataclass(frozen=True, slots=True)
class Network:
    """A network's file, and what its JSON says of it."""

    path: Path
    description: Description


def names(weights_dir: Path) -> list[str]:
    """Return the names of the networks that are described, which may have faults."""
    folder = weights_dir / OWN
    return sorted(OWN + path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.json"))


def find(name: str, weights_dir: Path) -> Network:
    """Find a network by its name. Raises UnknownBackbone, which says what is wrong and what to do."""
    sound = len(name) <= _LONGEST_NAME and name.isprintable() and PurePosixPath(name).as_posix() == name
    if not sound or ".." in PurePosixPath(name).parts:
        raise errors.UnknownBackbone(
            f"{name[:_LONGEST_NAME]!r} is not the name of a network of one's own: {OWN}NAME is, for {OWN}NAME.json "
            f"below IMAGEKIN_WEIGHTS_DIR, with at most {_LONGEST_NAME} characters."
        )
    described = files.below(weights_dir, f"{name}.json")
    found = [path for kind in KINDS if (path := files.below(weights_dir, name + kind)) is not None]
    here = f"below IMAGEKIN_WEIGHTS_DIR ({weights_dir.resolve()}) on the machine that answers"
    if described is None:
        without = f"{name}{found[0].suffix} has no {name}.json beside it" if found else f"there is no {name}.json"
        raise errors.UnknownBackbone(
            f"There is no network {name!r}: {without}, {here}. Put the file ({', '.join(KINDS)}) and its JSON there, "
            "and the file below that of each worker. GET /v1/backbones?source=own lists those that are there."
        )
    if len(found) != 1:
        has = " and ".join(name + path.suffix for path in found) + " are both" if found else "no file of it is"
        raise errors.UnknownBackbone(
            f"{name}.json describes a network, but {has} {here}: there should be one of {', '.join(KINDS)} beside it."
        )
    return Network(found[0], _read(described, name))


def sides(size: int | tuple[int, int]) -> int | tuple[int, int]:
    """Return a size as the catalog has it: equal sides are one number, so that both ways of writing are one space."""
    height, width = _pair(size)
    return height if height == width else (height, width)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _read(path: Path, name: str) -> Description:
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES)
        return Description.model_validate_json(text)
    except ValidationError as error:
        said = list(dict.fromkeys(_sentence(each["loc"], each["type"]) for each in error.errors()))
        raise errors.UnknownBackbone(f"{name}.json: {' '.join(said[:_ERRORS_NAMED])}") from error
    except OSError as error:
        raise errors.UnknownBackbone(f"{name}.json cannot be read: {error.strerror}.") from error


def _sentence(where: tuple[int | str, ...], kind: str) -> str:
    """Say what is wrong with a field."""
    fields = Description.model_fields
    if not where:
        return f"It should be a JSON object with {', '.join(fields)}."
    field = str(where[0])
    if field not in fields:
        return f"`{field}` is unknown: the fields are {', '.join(fields)}."
    return f"`{field}` {'is missing' if kind == 'missing' else 'is wrong'}: it should be {fields[field].description}."
