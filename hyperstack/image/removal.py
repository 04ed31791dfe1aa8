"""What `rmi` takes away: which names, and whether the image goes with them. The rules, and the words of a refusal, are
those of Docker's engine."""

from __future__ import annotations

from collections.abc import Sequence

from hyperstack.image.api import Holder
from hyperstack.image.digest import hexadecimal
from hyperstack.image.names import parse
from hyperstack.pod.errors import Conflict


def by_name(given: str, named: str, held: Sequence[str], ident: str, holder: Holder | None, *, force: bool
            ) -> tuple[list[str], bool]:
    """Of an image that a reference means.

    :param given: as the user wrote it. :param named: the reference. :param held: all names of the image, sorted.
    :param holder: who needs the image.
    :return: names that go, and whether the image does.
    :raise Conflict: it would be left without a name, although it is used.
    """
    if not force and holder is not None and _is_single(held):
        raise Conflict(f'conflict: unable to remove repository reference "{given}" (must force) - {holder.who} is '
                       f"using its referenced image {hexadecimal(ident)[:12]}", field="image", value=given)
    gone, rest = [named], [other for other in held if other != named]
    repository = parse(named).name
    if "@" not in named and not any("@" not in other for other in rest if parse(other).name == repository):
        # A tag's digests go with the last tag of that repository.
        gone += [other for other in rest if parse(other).name == repository]
        rest = [other for other in rest if other not in gone]
    return gone, not rest and holder is None


def by_id(held: Sequence[str], ident: str, holder: Holder | None, *, force: bool) -> tuple[list[str], bool]:
    """As `by_name`, of an image that is named by its id: all its names go.

    :raise Conflict: it runs, or is used and nothing could be taken from it, or it is used or has several names and
        nothing forces it.
    """
    single = _is_single(held)
    if holder is not None and holder.running:
        raise _conflict(ident, "cannot", f"image is being used by running {holder.who}")
    if held and not single and not force:
        raise _conflict(ident, "must", "image is referenced in multiple repositories")
    if holder is not None and not (force and held):
        # A disk that a stopped container needs stays; without a name there is nothing that force could take.
        raise _conflict(ident, "must" if held else "cannot", f"image is being used by stopped {holder.who}")
    return list(held), holder is None


def _conflict(ident: str, force: str, reason: str) -> Conflict:
    short = hexadecimal(ident)[:12]
    return Conflict(f"conflict: unable to delete {short} ({force} be forced) - {reason}", field="image", value=short)


def _is_single(held: Sequence[str]) -> bool:
    """Whether there is one tag at most, and digests of the same repository alone."""
    if len(held) <= 1:
        return len(held) == 1
    tags = [name for name in held if "@" not in name]
    digests = {parse(name).name for name in held if "@" in name}
    return len(tags) <= 1 and digests == {parse((tags or list(held))[0]).name}
