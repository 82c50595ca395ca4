"""What a trained model was made from: configurations, zoos by name and by hash, members by what they are."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from weightspace.autoencoder.training.config import DistillConfig, TrainConfig
from weightspace.inputs import config_from
from weightspace.zoo.zoo import Zoo

Losses = Mapping[str, float | int]


@dataclass(frozen=True, kw_only=True)
class TrainedZoo:
    """The part of a zoo that a model was trained on.

    Attributes:
        name: of its folder, for people.
        digest: of all checkpoints in use: the same for a zoo that was moved, renamed or published.
        members: name -> digests of the member's checkpoints in use (see `Zoo.digests`).
    """

    name: str
    digest: str
    members: Mapping[str, tuple[str, ...]]

    @classmethod
    def describe(cls, zoo: Zoo) -> Iterator["TrainedZoo"]:
        """Those that a zoo was concatenated from; itself, if it was not."""
        for origin in dict.fromkeys(zoo.origins):
            here = zoo.origins == origin
            digests = zoo.digests[here]
            grouped = digests.groupby(zoo.table["member"][here], sort=False)
            members = {str(member): tuple(each) for member, each in grouped}
            whole = hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
            yield cls(name=_folder_name(origin), digest=whole, members=members)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a trained model was made from.

    Attributes:
        training: how it was pre-trained.
        zoos: what on.
        final: the last row of the history of pre-training.
        distilling, distilled: the same of the second stage, if there was one.
    """

    training: TrainConfig
    zoos: tuple[TrainedZoo, ...] = ()
    final: Losses = field(default_factory=dict)
    distilling: DistillConfig | None = None
    distilled: Losses = field(default_factory=dict)

    @property
    def members(self) -> list[str]:
        """Names of the members it was trained on; zoos that share names have one of each."""
        return [member for zoo in self.zoos for member in zoo.members]

    @property
    def checkpoints(self) -> int:
        """How many checkpoints it was trained on."""
        return sum(len(digests) for zoo in self.zoos for digests in zoo.members.values())

    def trained_on(self, zoo: Zoo) -> frozenset[str]:
        """Those members of a zoo that it was trained on, whatever they are called there and wherever the zoo lies.

        A member is known by its weights. Those before any training do not count where there are others: networks of
        one recipe and seed begin alike on every task.
        """
        known = {digest for trained in self.zoos for digests in trained.members.values() for digest in digests}
        table = zoo.table
        last = table.groupby("member")["epoch"].transform("max")
        decisive = (table["epoch"] > 0) | (last == 0)
        return frozenset(table["member"][decisive & zoo.digests.isin(known)].astype(str))

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `Provenance.from_json` turns back into an equal one."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Provenance":
        """The inverse of `to_json`."""
        distilling = value["distilling"]
        return cls(
            training=config_from(TrainConfig, value["training"], "the provenance"),
            zoos=tuple(
                TrainedZoo(
                    name=zoo["name"],
                    digest=zoo["digest"],
                    members={member: tuple(digests) for member, digests in zoo["members"].items()},
                )
                for zoo in value["zoos"]
            ),
            final=dict(value["final"]),
            distilling=config_from(DistillConfig, distilling, "the provenance") if distilling is not None else None,
            distilled=dict(value["distilled"]),
        )


def _folder_name(folder: str) -> str:
    return folder.rstrip("/").rpartition("/")[2]
