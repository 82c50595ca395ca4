"""Publish a zoo: the same zoo with a card, in shards of bounded size, so that a hub takes and shows it as it is."""

from pathlib import Path
from typing import Any

from weightspace.errors import require_between
from weightspace.outputs import Existing, new_folder, write_manifest
from weightspace.zoo.cards import CardText
from weightspace.zoo.writing import ZooWriter
from weightspace.zoo.zoo import PLACE_COLUMNS, SHARD_FOLDER, Zoo


def publish(
    zoo: Zoo, out: str | Path, about: CardText, *, shard_mib: int = 15, existing: Existing = "refuse"
) -> dict[str, Any]:
    """Write a zoo, or a part of one, for others.

    Args:
        zoo: what is published.
        out: a folder that does not exist yet; `huggingface-cli upload --repo-type dataset NAME OUT` takes it.
        about: what the card says that the zoo does not know.
        shard_mib: bound of a shard's weights in MiB; a larger single checkpoint makes a larger shard.
        existing: `replace` an existing `out`.

    Returns:
        `checkpoints`, `shards` and `bytes` of what was written.

    Example:
        >>> publish(zoo, "for-the-hub", CardText(title="CNNs on MNIST", license="mit"))  # doctest: +SKIP
    """
    require_between("the size of a shard", shard_mib, 1)
    with new_folder(out, existing=existing) as folder:
        writer = ZooWriter(folder, shard_mib * 2**20)
        for piece in zoo.stacks():
            places = [name for name in PLACE_COLUMNS if name not in ("member", "epoch")]
            writer.add(piece.architecture, piece.stack, piece.table.drop(columns=places))
        writer.finish({name: value for name, value in zoo.about.items() if name != "concatenated"}, about)
        write_manifest(folder, configuration={"zoo": str(zoo.folder.name), "shard_mib": shard_mib}, seed=0)
    shards = list((Path(out) / SHARD_FOLDER).iterdir())
    size = sum(path.stat().st_size for path in Path(out).rglob("*") if path.is_file())
    return {"checkpoints": len(zoo), "shards": len(shards), "bytes": size}
