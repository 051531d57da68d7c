from __future__ import annotations

from typing import Any

from ui.monitor.values import curves_table


def rows(num: int) -> list[dict[str, Any]]:
    known = {"val/sdr_2mm": 0.5, "lr": 1e-3, "images_per_s": 8.0, "memory_bytes": 3 * 2**30}
    return [
        {
            "epoch": epoch,
            "phase": "train",
            "train/loss": 1 / epoch,
            "val/mre_px": 10.0,
            "val/mre_mm": 1.0,
            **known,
        }
        for epoch in range(1, num + 1)
    ]


def test_the_table_says_the_same_the_newest_first() -> None:
    table = curves_table(rows(3), "memory, GiB")
    assert table.index("<bdi>3</bdi>") < table.index("<bdi>2</bdi>") < table.index("<bdi>1</bdi>")
    assert "<bdi>1.00 mm</bdi>" in table and "<bdi>50.0 %</bdi>" in table and "<bdi>3.00 GiB</bdi>" in table
    assert "before refinement" not in table and "The last" not in table
    assert "The last 200 of 300 epochs" in curves_table(rows(300))
