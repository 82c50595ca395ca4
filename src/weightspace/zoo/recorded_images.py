"""The images a zoo was trained on, as far as they can be found again."""

from pathlib import Path

from weightspace.errors import InputError
from weightspace.images import ImageSet, open_images
from weightspace.zoo.zoo import Zoo


def recorded_images(zoo: Zoo) -> ImageSet | None:
    """The image set that a zoo names, divided as when it was grown; None if it names none that is here.

    A source `module:function` is never called: opening a zoo runs no code that its files name.
    """
    about = zoo.about.get("images")
    if not isinstance(about, dict) or "source" not in about:
        return None
    source = str(about["source"])
    if source != "digits" and not Path(source).is_file():
        return None
    size = about.get("shape", [None])[-1]
    first, second = about.get("limits", (None, None))
    try:
        return open_images(source, size=size, seed=int(about.get("seed", 0)), limits=(first, second))
    except InputError:
        return None
