"""Checks for families whose layers attend to a window around each token.

Some attention implementations read the windows from the mask, which is gathered and keeps true
distances. Others count neighbours among the tokens that they get.
"""


def counts_windows(implementation: str, reading_masks: tuple[str, ...]) -> str | None:
    """Return why an implementation is refused, and the remedy; None if it reads the mask."""
    if implementation in reading_masks:
        return None
    return (
        f"{implementation!r} attention counts its windows in selected tokens instead of the whole "
        f"sequence. Call model.set_attn_implementation({reading_masks[-1]!r}) first"
    )
