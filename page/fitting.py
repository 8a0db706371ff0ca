"""Moves what stands in a field to the nearest that the model can draw, once that is known, and says so."""

from drawing.models import Limits
from drawing.status import BackendStatus
from errors import InvalidRequestError
from page.language import ENGLISH, Words
from page.options import number_field, parse_size

_NAME_CHARS = 60  # of a scheduler's name


def fitting_size(value: object, status: BackendStatus, words: Words = ENGLISH) -> tuple[str, str] | None:
    """The nearest size that can be drawn, such as "512x384", and a sentence; None where `value` can stay.

    A size that is the model's own choice, or cannot be read, stays as well.
    """
    try:
        width, height = parse_size(value)
    except InvalidRequestError:
        return None
    if status.model is None or width is None or height is None:
        return None
    limits = status.limits
    near = int(limits.width.nearest(width)), int(limits.height.nearest(height))
    if near == (width, height):
        return None
    told = words("nearest_size", asked=f"{width} × {height}", near=f"{near[0]} × {near[1]}")  # noqa: RUF001
    is_own = near == (status.defaults.width, status.defaults.height)
    return "" if is_own else f"{near[0]}x{near[1]}", told


def fitting_number(name: str, value: object, status: BackendStatus, words: Words = ENGLISH) -> tuple[str, str] | None:
    """The same for a number that has limits, as text."""
    try:
        number = float(str(value).strip().replace(",", "."))
    except ValueError:
        return None
    if status.model is None or number != number:
        return None
    near = getattr(status.limits, name, getattr(Limits(), name)).nearest(number)
    if near == number:
        return None
    return f"{near:g}", words("nearest_number", asked=words.number(number), near=words.number(near))


def size_field(value: object, status: BackendStatus, words: Words = ENGLISH) -> dict[str, str]:
    """What changes in the field for the size."""
    fitting = fitting_size(value, status, words)
    return {"info": words["size_list_hint"]} if fitting is None else {"value": fitting[0], "info": fitting[1]}


def fitted_number_field(name: str, value: object, status: BackendStatus, words: Words = ENGLISH) -> dict[str, str]:
    """What changes in the field for a number."""
    field, fitting = number_field(status, name, words), fitting_number(name, value, status, words)
    if fitting is None:
        return field
    told = f"{field['info']}{words['full_stop']}{words['between_sentences']}{fitting[1]}"
    return {**field, "value": fitting[0], "info": told}


def scheduler_field(value: object, status: BackendStatus, words: Words = ENGLISH) -> dict[str, str]:
    """What changes in the field for the scheduler: one that is not offered becomes the model's own."""
    is_known = status.model is not None and bool(status.limits.schedulers)
    if not value or not is_known or status.limits.offers_scheduler(str(value)):
        return {"info": words["scheduler_hint"]}
    return {"value": "", "info": words("no_such_scheduler", name=str(value)[:_NAME_CHARS])}
