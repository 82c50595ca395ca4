"""What is in a folder of checkpoints, as tables and as one page."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from weightspace.analysis.inspecting.checkpoints import Inspection
from weightspace.analysis.inspecting.kinship import Relations
from weightspace.analysis.inspecting.relating_folders import Seen
from weightspace.outputs import called_as, installed_versions
from weightspace.report.figures import Drawn, to_svg
from weightspace.report.lineage_plot import draw_lineage
from weightspace.report.page import render_page
from weightspace.report.tables import Table, inspection_tables, relation_tables, seen_table


class InspectedFolder(NamedTuple):
    """A folder's checkpoints one by one, between each other, and in the eyes of a SANE."""

    folder: str
    inspection: Inspection
    related: Mapping[str, Relations]
    seen: Sequence[Seen]

    def summary(self) -> str:
        """One line with all counts."""
        inspection = self.inspection
        remarked = sum(1 for found in inspection.checkpoints if found.remarks())
        twice = len(inspection.equal_files) + len(inspection.equal_tensors)
        reordered = sum(len(own.reordered) for own in self.related.values())
        families = sum(len(own.trees) for own in self.related.values())
        counts = [
            f"{len(inspection.checkpoints):,} checkpoints",
            f"{remarked:,} with remarks",
            f"{twice:,} groups of duplicates",
            f"{reordered:,} groups equal up to order",
            f"{families:,} families",
        ]
        if inspection.left_out:
            counts.append(f"{len(inspection.left_out):,} other files left out")
        return ", ".join(counts)

    def notes(self) -> list[str]:
        """What was not compared, and why."""
        return [f"{name}: {note}" for name, own in self.related.items() for note in own.notes]

    def tables(self, limit: int) -> list[Table]:
        """All tables, each of at most so many rows."""
        remarks = {found.path: found.remarks() for found in self.inspection.checkpoints}
        tables = inspection_tables(self.inspection.to_json(), remarks, limit)
        tables += relation_tables(self.related, limit)
        return [*tables, seen_table(self.seen, limit)] if self.seen else tables


def render_inspection(found: InspectedFolder, limit: int = 1_000) -> str:
    """One self-contained HTML page."""
    trees = [tree for own in found.related.values() for tree in own.trees]
    figures = []
    if trees:
        sentence = (
            "Each checkpoint beside the one it is nearest to; dashed where the two had to be aligned first. Which came "
            "first the weights do not tell."
        )
        figures.append(Drawn("Families", sentence, to_svg(draw_lineage(trees), "lineage")))
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    about = {
        "title": f"What is in {found.folder.rstrip('/').rpartition('/')[2]}",
        "summary": f"{found.summary()}.",
        "findings": found.notes(),
        "made": {"command": called_as(), "versions": versions},
    }
    return render_page(about, found.tables(limit), figures)
