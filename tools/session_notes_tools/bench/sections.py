"""The sections that `bench --full` adds."""

from __future__ import annotations

from typing import Any

from session_notes_tools.bench.footprint import measure_footprint
from session_notes_tools.bench.growth import measure_growth
from session_notes_tools.bench.rounds import Progress
from session_notes_tools.bench.scale import measure_cluster, measure_workers


async def measure_sections(progress: Progress, *, rounds: int, seconds: float, seed: int) -> dict[str, Any]:
    """Measure all sections in the order of the report."""
    growth, memory = await measure_growth(rounds=rounds, seconds=seconds, seed=seed, progress=progress)
    return {
        "growth": growth,
        "memory": memory,
        "footprint": await measure_footprint(progress),
        "workers": await measure_workers(progress, rounds=rounds, seconds=seconds),
        "cluster": await measure_cluster(progress, rounds=rounds, seconds=seconds),
    }
