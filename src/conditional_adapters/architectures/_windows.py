"""What records of families whose layers look at a window around each token have in common."""


def counts_windows(implementation: str, reading_masks: tuple[str, ...]) -> str | None:
    """Say why an attention implementation cannot run on chosen tokens.

    Some take windows from the mask, which is gathered and keeps true distances. Others count
    neighbours themselves, in the tokens that they get.

    Args:
        implementation: The name that the configuration gives.
        reading_masks: The implementations that take the family's windows from the mask, the one to
            recommend last.

    Returns:
        The reason with a remedy; None if there is none.
    """
    if implementation in reading_masks:
        return None
    return (
        f"{implementation!r} attention counts its windows in chosen tokens. Call "
        f"model.set_attn_implementation({reading_masks[-1]!r}) first"
    )
