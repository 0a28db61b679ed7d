"""docs/scale.md has the numbers that its own formulas give, and the configurations are those of the page."""

from pathlib import Path

import pytest

from agent.config import load
from tests.reference.scale import FIGURES, Figures, Sizes, busiest, keys_table, rounded, sizes_table

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "scale.md").read_text()


def test_the_page_has_the_tables_of_the_model() -> None:
    assert sizes_table() in TEXT, "python -m tests.reference.scale"
    assert keys_table() in TEXT, "python -m tests.reference.scale"


def test_all_is_in_proportion() -> None:
    one, ten = Sizes(FIGURES, 10), Sizes(FIGURES, 100)
    for name in ("metrics", "messages", "wire", "replication", "disk", "kept"):
        assert getattr(ten, name) == pytest.approx(10 * getattr(one, name))
    # What takes less than a broker takes as many as there are replicas.
    assert Sizes(FIGURES, 1).brokers == FIGURES.replicas and ten.brokers == 30


def test_more_groups_of_relays_are_more_network() -> None:
    assert Sizes(Figures(groups=4), 100).brokers_by_network > Sizes(FIGURES, 100).brokers_by_network


def test_chance_does_not_spread_evenly() -> None:
    assert busiest(10, 1) == 10
    assert 1 < busiest(10, 1000) < 1.2
    assert busiest(1000, 10) > 100


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (300e6, "300 MB"), (19.44e12, "19.4 TB"), (1.944e15, "1.9 PB"), (999.6, "1.0 kB")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert rounded(value, "B") == text


def test_the_figures_are_those_of_the_configuration() -> None:
    edge = load(ROOT / "configs" / "penstock.toml")
    assert edge.flush.batch_lines == FIGURES.batch_metrics
    assert f"| {FIGURES.wire_bytes:.0f} |" in TEXT and f"| {FIGURES.retention_hours:.0f} h |" in TEXT
