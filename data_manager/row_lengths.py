"""Row lengths of a table, computed without reading the ids."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def row_lengths(rows: Any) -> "dict[str, NDArray[np.int64]]":
    """Return, for each column of ids of a `datasets.Dataset`, the number of tokens in each row."""
    import numpy as np
    import pyarrow.compute as pc  # type: ignore[import-untyped,unused-ignore]

    indices = None if rows._indices is None else rows._indices.column(0).to_numpy()
    found = {}
    for name in rows.column_names:
        if name.endswith("_ids"):
            lengths = pc.list_value_length(rows.data.column(name)).to_numpy().astype(np.int64)
            found[name] = lengths if indices is None else lengths[indices]
    return found
