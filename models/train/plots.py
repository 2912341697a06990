"""The two figures of the model card, as SVG that is readable on light and dark pages: `loss` and `experts`.

Both are functions of `measurements.json`; nothing but the standard library is needed.
"""

from html import escape

WIDTH = 800
NAMES = {"moe": "mixture of experts", "iso-active": "dense, same active parameters", "iso-total": "dense, same total"}
MODEL_COLOURS = {"moe": "#2f81d6", "iso-active": "#d9822b", "iso-total": "#8a63c9"}
DOMAIN_COLOURS = ("#2f81d6", "#2e9e5b", "#d9822b", "#d64550", "#8a63c9")
STYLE = """<style>
text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #3c434b }
.small { font-size: 11px } .tiny { font-size: 9px } .title { font-size: 15px; font-weight: 600 }
.line { stroke: #8b949e; stroke-opacity: .35 } .cell { fill: #8b949e; fill-opacity: .1 }
@media (prefers-color-scheme: dark) { text { fill: #c6cdd5 } }
</style>"""


def svg(height: float, parts: list[str], about: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img"'
    return "\n".join([f'{head} aria-label="{escape(about)}">', STYLE, *parts, "</svg>"]) + "\n"


def text(x: float, y: float, content: str, anchor: str = "start", kind: str = "", colour: str = "") -> str:
    extra = (f' class="{kind}"' if kind else "") + (f' style="fill: {colour}"' if colour else "")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(content)}</text>'


# ---------------------------------------------------------------- loss


def smooth(points: list[list[float]], reach: int = 3) -> list[tuple[float, float]]:
    """Each point's mean with up to `reach` neighbours on either side, as many on the one as on the other."""
    smoothed = []
    for i, (x, _) in enumerate(points):
        r = min(reach, i, len(points) - 1 - i)
        near = [y for _, y in points[i - r : i + r + 1]]
        smoothed.append((x, sum(near) / len(near)))
    return smoothed


def loss(models: dict[str, dict]) -> str:
    """Training loss as a line, validation loss as circles, over the tokens read."""
    height, left, top, right, bottom = 420, 58, 58, 24, 46
    everything = [p for m in models.values() for kind in ("training", "validation") for p in m["curve"][kind]]
    last = max(x for x, _ in everything)
    low = int(2 * min(y for _, y in everything)) / 2
    high = min(low + 4, max(low + 1, max(y for _, y in everything)))
    across = lambda x: left + (WIDTH - left - right) * x / last  # noqa: E731
    down = lambda y: top + (height - top - bottom) * (high - y) / (high - low)  # noqa: E731
    parts = [text(left, 26, "Loss while training, nats per token", kind="title")]
    for i in range(int(2 * (high - low)) + 1):
        y = low + i / 2
        parts.append(f'<path class="line" d="M{left} {down(y):.1f}H{WIDTH - right}"/>')
        parts.append(text(left - 8, down(y) + 4, f"{y:.1f}", "end", "small"))
    per_tick = next(t for t in (0.2e6, 0.5e6, 1e6, 2e6, 5e6, 1e7, 1e8) if last / t <= 10)
    for i in range(int(last / per_tick) + 1):
        parts.append(text(across(i * per_tick), height - bottom + 18, f"{i * per_tick / 1e6:g} M", "middle", "small"))
    parts.append(text((left + WIDTH - right) / 2, height - 8, "tokens read", "middle", "small"))
    phases = [start for start in next(iter(models.values()))["run"]["phases"] if start < last]
    for start in phases:
        parts.append(f'<path class="line" stroke-dasharray="4 4" d="M{across(start):.1f} {top}V{height - bottom}"/>')
    lowest = height - bottom - 14
    for place, (name, model) in enumerate(models.items()):
        colour = MODEL_COLOURS[name]
        shown = [(x, y) for x, y in smooth(model["curve"]["training"]) if y <= high]
        line = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in shown)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6" opacity=".75"/>')
        for x, y in model["curve"]["validation"]:
            if y <= high:
                parts.append(f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="4.2" fill="{colour}"/>')
        parts.append(text(left + 10, lowest - 36 - 19 * place, NAMES[name], colour=colour))
    curves = "line: training, mean of up to 7 points; circles: validation, mixed as at first"
    parts.append(text(left + 10, lowest - 16, curves, kind="small"))
    parts.append(text(left + 10, lowest, "dashes: the mixture of the training text changes", kind="small"))
    return svg(height, parts, "Training and validation loss over the tokens read")


# ---------------------------------------------------------------- experts


def ordered(layer: dict, domains: list[str]) -> list[int]:
    """The layer's experts by favourite domain, and within it the most decided ones first."""
    favourite = {f["expert"]: (domains.index(f["domain"]), -f["lift"]) for f in layer["favourites"]}
    return sorted(favourite, key=lambda expert: (*favourite[expert], expert))


def experts(routing: dict) -> str:
    """For each layer a row a domain and a column an expert: what share of the expert's work is the domain's."""
    domains, left, top, row, gap = routing["domains"], 96, 66, 17, 32
    parts = [text(12, 24, "Which domain each expert works for", kind="title")]
    about = "share of the expert's tokens, every domain counted alike; experts sorted by their favourite domain"
    parts.append(text(12, 43, f"A full cell is all of the expert's work: {about}.", kind="small"))
    for number, layer in enumerate(routing["layers"]):
        y = top + number * (row * len(domains) + gap)
        columns = ordered(layer, domains)
        cell = (WIDTH - left - 14) / max(1, len(layer["shares"][0]))
        parts.append(text(12, y + 11, f"layer {number}", kind="small"))
        for column, expert in enumerate(columns):
            of_all = sum(shares[expert] for shares in layer["shares"])
            x = left + column * cell
            for line, shares in enumerate(layer["shares"]):
                place = f'x="{x:.1f}" y="{y + line * row}" width="{cell - 1.5:.1f}" height="{row - 1.5}" rx="2"'
                colour, strength = DOMAIN_COLOURS[line % len(DOMAIN_COLOURS)], shares[expert] / of_all
                parts.append(f'<rect {place} class="cell"/>')
                parts.append(f'<rect {place} fill="{colour}" fill-opacity="{strength:.2f}"/>')
            parts.append(text(x + cell / 2 - 0.75, y + row * len(domains) + 9, f"{expert}", "middle", "tiny"))
        for line, domain in enumerate(domains):
            parts.append(text(left - 6, y + line * row + 12, domain, "end", "tiny", DOMAIN_COLOURS[line]))
    return svg(top + len(routing["layers"]) * (row * len(domains) + gap), parts, about)
