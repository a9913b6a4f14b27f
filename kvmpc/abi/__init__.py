"""The kernel's layouts and numbers for x86-64, one file per kernel header, in kernel spelling.

Owns constants, ioctl numbers and structures; calls nothing and decides nothing. Some symbols are
newer than the headers of the distribution that runs this: `tests/abi/by_hand.json` says, for each,
where its value comes from.
"""

__all__: list[str] = []
