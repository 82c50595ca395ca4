"""What is in a zoo, as a JSON value."""

from typing import Any

import pandas as pd

from weightspace.zoo.zoo import Zoo


def summarize(zoo: Zoo) -> dict[str, Any]:
    """Members, checkpoints, bytes; architectures; every property with its range and missing values."""
    counts = zoo.table["architecture"].value_counts()
    return {
        "members": len(zoo.members),
        "checkpoints": len(zoo),
        "bytes": sum(path.stat().st_size for folder in zoo.folders for path in folder.rglob("*") if path.is_file()),
        "architectures": [
            {
                "id": architecture.id,
                "numbers": architecture.parameters,
                "tensors": len(architecture.shapes),
                "checkpoints": int(counts.get(architecture.id, 0)),
                "factory": architecture.factory,
            }
            for architecture in zoo.architectures.values()
        ],
        "properties": [_summarize_property(name, zoo.table[name]) for name in zoo.properties],
    }


def _summarize_property(name: str, values: pd.Series) -> dict[str, Any]:
    missing = int(values.isna().sum())
    if pd.api.types.is_numeric_dtype(values):
        low, middle, high = (float(value) for value in (values.min(), values.median(), values.max()))
        return {"name": name, "low": low, "median": middle, "high": high, "missing": missing}
    return {"name": name, "values": sorted(map(str, values.dropna().unique())), "missing": missing}
