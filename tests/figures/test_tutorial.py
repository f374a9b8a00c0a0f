"""The tutorial is a notebook of at most 25 lines that runs as a reader would run it."""

from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "notebooks" / "tutorial.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_tutorial_runs_and_its_result_is_read_in_a_second_process(tmp_path: Path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    book = nbformat.read(TUTORIAL, 4)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert sum(bool(line.strip()) for cell in cells for line in cell.source.splitlines()) <= 25
    nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [[kind for one in cell.outputs for kind in one.get("data", {})] for cell in cells]
    pictures = [cell.source for cell, kinds in zip(cells, shown, strict=True) if "image/png" in kinds]
    assert pictures == ["batchednodes.plot(*runs)"]
    assert 0.5 < float(cells[-1].outputs[0].text) <= 1  # accuracy that another process found
