"""Say which layout a folder has."""

from weightspace.errors import InputError
from weightspace.zoo.readers.found import Reader
from weightspace.zoo.readers.plain import PlainReader
from weightspace.zoo.readers.ray_tune import RayTuneReader
from weightspace.zoo.readers.small_cnn_zoo import SmallCnnZooReader
from weightspace.zoo.readers.source import Source
from weightspace.zoo.zoo import TABLE_FILE, ZOO_FILE


def recognize(source: Source, *, pattern: str = "", table: str = "") -> Reader:
    """The reader for a folder; a pattern or a table means plain files.

    Raises:
        InputError: an empty folder, or one that is a zoo of this package already.
    """
    files = source.files
    if not files:
        raise InputError(f"expected checkpoints below {source.address}, found an empty folder")
    if ZOO_FILE in files and TABLE_FILE in files:
        raise InputError(
            f"expected a folder of another layout, found {source.address} to be a zoo already: use it as it is"
        )
    if not pattern and not table:
        if SmallCnnZooReader.recognizes(files):
            return SmallCnnZooReader(source)
        if RayTuneReader.recognizes(files):
            return RayTuneReader(source)
    return PlainReader(source, pattern, table)
