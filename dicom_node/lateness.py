"""What the ledger says of an image that the deadline of its route came before."""

from typing import Final

LATE: Final = "the route's deadline passed before it was enhanced"
