"""The incident as a picture: what became of the requests of each half second, without bounds and with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.flow_kit.pages import DEADLINE

Ended = tuple[float, float, str]
"""When it arrived, seconds it took, and whether it was answered: full, degraded or none."""

BUCKET = 0.5
LEFT, WIDTH, HEIGHT, GAP, TOP = 60, 760, 130, 64, 44
INK = {"full": "#3a7d44", "late": "#a9c9ae", "degraded": "#e0a030", "none": "#c0392b"}
WORDS = {
    "full": "full answers",
    "late": f"full, after {DEADLINE * 1000:.0f} ms",
    "degraded": "without a price",
    "none": "none",
}


def draw(runs: Mapping[str, Sequence[Ended]], *, begins: float, ends: float, over: float) -> str:
    """An SVG with a panel for each run.

    Args:
        begins: when the outage began, in seconds; and ended; and when the run was over.
    """
    height = TOP + len(runs) * (HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} {height}" '
        'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for number, (fate, ink) in enumerate(INK.items()):
        x = LEFT + number * 140
        parts.append(f'<rect x="{x}" y="10" width="12" height="12" fill="{ink}"/>')
        parts.append(f'<text x="{x + 18}" y="21">{WORDS[fate]}</text>')
    most = max(max(Counter(int(at / BUCKET) for at, _, _ in run).values()) for run in runs.values())
    for number, (name, run) in enumerate(runs.items()):
        parts += _panel(name, run, TOP + number * (HEIGHT + GAP), most, (begins, ends, over))
    return "\n".join([*parts, "</svg>\n"])


def _panel(name: str, run: Sequence[Ended], top: float, most: int, times: tuple[float, float, float]) -> Iterator[str]:
    begins, ends, over = times
    base, scale = top + 18 + HEIGHT, WIDTH / over
    yield f'<text x="{LEFT}" y="{top + 10}" font-weight="bold">{name}</text>'
    yield (
        f'<rect x="{LEFT + begins * scale:.0f}" y="{top + 18}" width="{(ends - begins) * scale:.0f}" height="{HEIGHT}" '
        'fill="#f2f2f2"/>'
    )
    yield f'<text x="{LEFT + begins * scale + 4:.0f}" y="{top + 32}" fill="#666666">pricing takes 1.5 s</text>'
    for bucket in range(int(over / BUCKET)):
        there = [one for one in run if bucket * BUCKET <= one[0] < (bucket + 1) * BUCKET]
        y = float(base)
        fates = Counter("late" if end == "full" and seconds > DEADLINE * 1.05 else end for _, seconds, end in there)
        for fate, ink in INK.items():
            high = fates[fate] / most * (HEIGHT - 20)
            y -= high
            if high:
                yield (
                    f'<rect x="{LEFT + bucket * BUCKET * scale:.1f}" y="{y:.1f}" width="{BUCKET * scale - 1:.1f}" '
                    f'height="{high:.1f}" fill="{ink}"/>'
                )
    for second in range(0, int(over) + 1, 5):
        yield f'<text x="{LEFT + second * scale:.0f}" y="{base + 16}" text-anchor="middle" fill="#666666">{second} s</text>'
    yield f'<text x="{LEFT - 8}" y="{base - HEIGHT + 30}" text-anchor="end" fill="#666666">{most / BUCKET:.0f}/s</text>'
    ill = sorted(seconds for at, seconds, _ in run if begins <= at < ends)
    if ill:
        yield (
            f'<text x="{LEFT + WIDTH}" y="{top + 10}" text-anchor="end" fill="#666666">in the outage: p50 '
            f"{ill[len(ill) // 2] * 1000:.0f} ms, p99 {ill[int(len(ill) * 0.99)] * 1000:.0f} ms</text>"
        )
