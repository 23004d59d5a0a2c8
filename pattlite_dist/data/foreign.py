"""Files of foreign data sets: what an address or a command gives."""

from pattlite_dist.data.fetch import Origin
from pattlite_dist.errors import UserError


def fetch_file(address: str, most: int, patient: bool) -> bytes:
    """See `shards.sources.tars.Fetch`; whether a command is allowed has been checked."""
    retries = 4 if patient else 0
    if address.startswith("pipe:"):
        return Origin(address, allow_pipe=True, retries=retries).read("", bytes, most)
    path, mark, query = address.partition("?")
    folder = path[: path.rfind("/") + 1]
    try:
        return Origin(folder, retries=retries).read(address[len(folder) :], bytes, most)
    except UserError as error:  # it may show the query, which may be a signature
        text = str(error).replace(f"?{query}", "") if mark else str(error)
        raise UserError(text if "; " in text else f"{text}; check the address") from None
