"""The data: which rows there are, and what is learned of them. engine/tables.py reads the file, engine/table_files.py
makes batches of its rows, engine/loading.py splits them.

To take rows from elsewhere, change ``table``; the rest does not know where they came from. It may also make columns of
others, such as the ratio of two::

    table = super().table()
    width, height = (column.values_N for column in table.columns if column.name in ("width", "height"))
    return table._replace(columns=[*table.columns, Column("ratio", "number", width / height)])

A file of new rows for ``predict`` is read by engine/tables.py, so it must have such a column itself.
"""

from typing import Any

from .engine.table_files import TableFiles
from .engine.tables import Table


class TableData(TableFiles):
    """The rows of a table as seeded and split batches.

    Args:
        table: A CSV, TSV or Parquet file; or diabetes or california, which are written to data/ first.
        target: The column that is learned, or several; null takes one that is called target.
        options: What every data module of tables takes, see engine/table_files.py and engine/loading.py.
    """

    def __init__(self, table: str = "data/table.csv", target: list[str] | str | None = None, **options: Any) -> None:
        super().__init__(table=table, target=target, **options)

    def table(self) -> Table:
        """Read the table: its columns, and the targets of its rows."""
        return super().table()
