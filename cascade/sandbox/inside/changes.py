"""What is changed in place: found at the end where it happens, and made again at the other."""

from _collections import deque  # pyright: ignore[reportMissingImports]

from wire import Malformed


def contents(container):
    """What lies in something changeable, in a form that crosses and that `refill` takes."""
    if isinstance(container, dict):
        return tuple(half for pair in dict.items(container) for half in pair)
    return bytes(container) if isinstance(container, bytearray) else tuple(container)


def snapshot(container):
    """Something to compare by `is_as_before`: holds what lies in it now."""
    return contents(container)


def is_as_before(container, before):
    """Whether the very same objects lie in it as when `before` was taken."""
    now = contents(container)
    if isinstance(container, bytearray):
        return now == before
    return len(now) == len(before) and all(map(_is, now, before))


def _is(one, other):
    return one is other


def refill(container, now):
    """Gives a container other contents. Raises `Malformed`."""
    if type(now) is not (bytes if isinstance(container, bytearray) else tuple):
        raise Malformed("Not the contents of a container.")
    try:
        if isinstance(container, dict):
            pairs = dict(zip(now[::2], now[1::2], strict=True))
            container.clear()
            for key in pairs:
                container[key] = pairs[key]
        elif isinstance(container, set):
            fresh = set(now)
            container.clear()
            container.update(fresh)
        elif isinstance(container, deque):
            container.clear()
            container.extend(now)
        else:
            container[:] = now
    except (TypeError, ValueError):
        raise Malformed("A key or an element that cannot be one.") from None
