"""Draw docs/images/conditional-layer.svg: `python -m scripts.draw_layer`.

The picture has a ground of its own and follows the reader's colour scheme where a browser tells it.
"""

from pathlib import Path

TARGET = Path("docs/images/conditional-layer.svg")
CHOSEN = (1, 6)
SCORES = (14, 44, 20, 9, 17, 25, 38, 12)
STYLE = """
  svg { --ground: #fafafa; --ink: #24292f; --soft: #c3c9d1; --heavy: #dfe5ee; --chosen: #d9541e; }
  @media (prefers-color-scheme: dark) {
    svg { --ground: #22262e; --ink: #e4e7eb; --soft: #6b7480; --heavy: #38414f; --chosen: #f08a4b; }
  }
  text { font: 15px system-ui, sans-serif; fill: var(--ink); }
  .strong { font-weight: 600; }
  .middle { text-anchor: middle; }
  .token { fill: var(--soft); }
  .chosen { fill: var(--chosen); }
  .box { fill: var(--heavy); stroke: var(--ink); stroke-width: 1; }
  .sum { fill: var(--ground); stroke: var(--ink); stroke-width: 1; }
  .flow { fill: none; stroke: var(--ink); stroke-width: 1.5; marker-end: url(#head); }
  .flow.few { stroke: var(--chosen); stroke-width: 2; marker-end: url(#few); }
"""


def draw() -> str:
    """The picture: eight tokens, two of which pass through the frozen layer (r = 4)."""
    centres = [100 + 50 * index for index in range(8)]
    parts = [_tokens(centres, y=50), _tokens(centres, y=494)]
    for centre, score, index in zip(centres, SCORES, range(8), strict=True):
        kind = "chosen" if index in CHOSEN else "token"
        parts.append(
            f'<rect class="{kind}" x="{centre - 9}" y="{458 - score}" width="18" height="{score}"/>'
        )
    parts.append(_text(275, 478, "router: a score for each token", "middle"))
    parts.append(_text(275, 544, "X, n = 8 tokens", "middle"))
    parts.append(_text(275, 36, "Y, n = 8 tokens, in order", "middle"))

    # The heavy way: the chosen tokens are gathered, processed, weighted and put back.
    slots = (130, 190)
    for index, slot in zip(CHOSEN, slots, strict=True):
        centre = centres[index]
        bend = 392 if index == CHOSEN[0] else 400
        top = 458 - SCORES[index]
        parts.append(_flow(f"M{centre} {top} V{bend} H{slot} V372", "few"))
        parts.append(
            f'<rect class="chosen" x="{slot - 16}" y="336" width="32" height="32" rx="4"/>'
        )
        parts.append(_flow(f"M{slot} 334 V316", "few"))
        parts.append(_flow(f"M{slot} 226 V211", "few"))
        parts.append(f'<circle class="sum" cx="{slot}" cy="190" r="17"/>')
        parts.append(_text(slot, 195, "\N{MULTIPLICATION SIGN}m", "middle"))
        parts.append(_flow(f"M{slot} 172 V144", "few"))
    parts.append(_text(224, 357, "k = n / r = 2"))
    parts.append('<rect class="box" x="66" y="228" width="190" height="84" rx="8"/>')
    parts.append(_text(161, 264, "frozen layer", "middle strong"))
    parts.append(_text(161, 286, "attention, feed-forward", "middle"))

    # The light way, and the residual.
    parts.append('<rect class="box" x="330" y="252" width="150" height="60" rx="8"/>')
    parts.append(_text(405, 277, "adapter", "middle strong"))
    parts.append(_text(405, 298, "all n tokens", "middle"))
    parts.append(_flow("M468 510 H522 V282 H484"))
    parts.append(_flow("M405 250 V144"))
    parts.append(_flow("M82 510 H30 V121 H72"))
    parts.append(
        '<text class="middle" transform="translate(22 320) rotate(-90)">X, unchanged</text>'
    )
    parts.append('<rect class="sum" x="76" y="102" width="398" height="38" rx="19"/>')
    parts.append(_text(275, 126, "+ at the places they came from", "middle"))
    parts += [_flow(f"M{centre} 100 V87") for centre in centres]
    body = "\n".join(parts)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 550 560" role="img"
 aria-label="Of eight tokens the router chooses two; the frozen layer processes these,
 the adapter all eight.">
<style>{STYLE}</style>
<defs>
{_arrow_head("head", "--ink")}
{_arrow_head("few", "--chosen")}
</defs>
<rect width="550" height="560" rx="10" fill="var(--ground)"/>
{body}
</svg>
"""


def _tokens(centres: list[int], *, y: int) -> str:
    squares = (
        f'<rect class="{"chosen" if index in CHOSEN else "token"}" '
        f'x="{centre - 17}" y="{y}" width="34" height="32" rx="4"/>'
        for index, centre in enumerate(centres)
    )
    return "\n".join(squares)


def _text(x: int, y: int, content: str, classes: str = "") -> str:
    return f'<text class="{classes}" x="{x}" y="{y}">{content}</text>'


def _flow(path: str, classes: str = "") -> str:
    return f'<path class="flow {classes}" d="{path}"/>'


def _arrow_head(name: str, colour: str) -> str:
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="8" markerHeight="8" '
        f'markerUnits="userSpaceOnUse" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" style="fill: var({colour})"/></marker>'
    )


if __name__ == "__main__":
    TARGET.write_text(draw())
    print(f"wrote {TARGET}")
