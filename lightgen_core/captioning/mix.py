"""Select captions of several sources in proportion to their weights."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain

from lightgen_core.captioning.select import (
    Caption,
    CaptionFilter,
    CaptionSelection,
    in_turn,
    selection_of,
)


def select_mixed(
    sources: Mapping[str, Mapping[str, list[Caption]]],
    turns: Sequence[str],
    caption_filter: CaptionFilter,
) -> CaptionSelection:
    """Select an accepted caption for each turn, or fewer where a source runs out; within a source, of topics in turn.

    The filter sees all sources at once, in the order of the turns, so that a caption of one source can repeat one of
    another.

    Args:
        sources: name -> topic -> captions, best first, each with the name as its `source`.
        turns: the name of the source of each caption wanted.
    """
    orders = {name: in_turn(topics.values()) for name, topics in sources.items()}
    wanted, offered = Counter(turns), {name: count + count // 3 for name, count in Counter(turns).items()}
    while True:
        candidates = _interleave({name: orders[name][: offered[name]] for name in offered}, turns)
        rejections = caption_filter(candidates)
        accepted: dict[str, dict[str, list[int]]] = {name: {topic: [] for topic in sources[name]} for name in offered}
        for index, (caption, rejection) in enumerate(zip(candidates, rejections, strict=True)):
            if rejection is None:
                accepted[caption.source][caption.topic].append(index)
        chosen = {name: in_turn(topics.values())[: wanted[name]] for name, topics in accepted.items()}
        short = [name for name in offered if len(chosen[name]) < wanted[name] and offered[name] < len(orders[name])]
        if not short:
            queues = {name: iter(indices) for name, indices in chosen.items()}
            picked = (next(queues[name], None) for name in turns)
            return selection_of(candidates, rejections, [index for index in picked if index is not None])
        offered |= {name: 2 * offered[name] for name in short}


def _interleave(orders: Mapping[str, Sequence[Caption]], turns: Sequence[str]) -> list[Caption]:
    """Return all captions, each source's in order: in the order of the turns, then the rest source by source."""
    queues = {name: iter(order) for name, order in orders.items()}
    first = [caption for name in turns if (caption := next(queues[name], None)) is not None]
    return [*first, *chain.from_iterable(queues.values())]
