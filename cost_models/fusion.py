"""What a compiler makes of an eager graph: chains of pointwise ops, norms and copies as one kernel each.

A chain reads what comes from outside once (twice where a norm's statistics come first and a block cannot hold
them), writes what is used outside, and keeps the rest in registers. Products, convolutions and attention stay
kernels of their own, as they do in PyTorch's compiler by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import fx

from vgcomp import ir
from vgcomp.cost_models.base import OpWork
from vgcomp.cost_models.work import distinct_bytes

_FUSED = frozenset({"pointwise", "norm", "copy", "reduce"})
#: An output this many times smaller than its chain's is made by a kernel of its own.
_SMALL = 4


@dataclass
class _Chain:
    members: list[fx.Node]
    elements: int
    #: Bits of the members, by position.
    bits: int
    #: Inputs from outside, with the bytes that are read of each.
    reads: dict[fx.Node, float] = field(default_factory=dict)
    norms: int = 0


def fuse(graph: fx.Graph, works: Mapping[fx.Node, OpWork]) -> dict[fx.Node, OpWork | None]:
    """The work of each node of a compiled graph: a chain's at its last node, None at the chain's other nodes.

    ``works`` has the eager work of every node that has one. A chain never depends on itself by way of a node
    outside it.
    """
    chains = _chains(graph, works)
    fused: dict[fx.Node, OpWork | None] = {}
    for node, work in works.items():
        chain = chains.get(node)
        if chain is None:
            # Compilers keep tensors in the layout that convolutions want.
            fused[node] = replace(work, relayout_bytes=0.0, call=None) if work.relayout_bytes else work
        elif node is chain.members[-1]:
            fused[node] = _merged(chain, works, chains)
        else:
            fused[node] = None
    return fused


def _chains(graph: fx.Graph, works: Mapping[fx.Node, OpWork]) -> dict[fx.Node, _Chain]:
    chains: dict[fx.Node, _Chain] = {}
    above: dict[fx.Node, int] = {}
    for i, node in enumerate(graph.nodes):
        sources = node.all_input_nodes
        before = 0
        for source in sources:
            before |= above[source]
        above[node] = before | 1 << i
        work = works.get(node)
        if work is None or work.kind not in _FUSED:
            continue
        chain = _joinable(node, works, chains, above)
        if chain is None:
            chain = _Chain([], work.out_elements, 0)
        _join(chain, node, works, 1 << i)
        chains[node] = chain
    return chains


def _joinable(
    node: fx.Node,
    works: Mapping[fx.Node, OpWork],
    chains: Mapping[fx.Node, _Chain],
    above: Mapping[fx.Node, int],
) -> _Chain | None:
    """The chain of the largest input that the node can join without a cycle."""
    work = works[node]
    roots = [_root(source, works) for source in node.all_input_nodes]
    found = [chains[root] for root in roots if root in chains]
    for chain in sorted(found, key=lambda c: -c.elements):
        alike = work.out_elements == chain.elements or work.kind == "reduce"
        one_norm = not (chain.norms and work.kind == "norm")
        outside = [root for root in roots if chains.get(root) is not chain]
        if alike and one_norm and all(not above[root] & chain.bits for root in outside):
            return chain
    return None


def _join(chain: _Chain, node: fx.Node, works: Mapping[fx.Node, OpWork], bit: int) -> None:
    for source in node.all_input_nodes:
        root = _root(source, works)
        if root not in chain.members:
            size = distinct_bytes(ir.val(source))
            chain.reads[root] = max(chain.reads.get(root, 0.0), size)
    chain.members.append(node)
    chain.bits |= bit
    chain.norms += works[node].kind == "norm"


def _root(node: fx.Node, works: Mapping[fx.Node, OpWork]) -> fx.Node:
    """The node whose storage a view reads."""
    while node in works and works[node].kind == "view" and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def _merged(chain: _Chain, works: Mapping[fx.Node, OpWork], chains: Mapping[fx.Node, _Chain]) -> OpWork:
    members = [works[node] for node in chain.members]
    written = [node for node in chain.members if any(chains.get(user) is not chain for user in _readers(node, works))]
    last = members[-1]
    limit = chain.elements * last.dtype.itemsize / _SMALL
    read = sum(chain.reads.values())
    return replace(
        last,
        kind="pointwise" if len(members) > 1 else last.kind,
        flops=sum(work.flops for work in members),
        bytes_read=read,
        shared_bytes=sum(size for size in chain.reads.values() if size <= limit),
        bytes_written=sum(distinct_bytes(ir.val(node)) for node in written),
        out_elements=chain.elements,
        strided=any(work.strided and work.kind == "copy" for work in members),
        reads=max(work.reads for work in members),
        rows=0,
        broadcast=False,
        relayout_bytes=0.0,
        call=None,
    )


def _readers(node: fx.Node, works: Mapping[fx.Node, OpWork]) -> list[fx.Node]:
    """Who reads a node's value, directly or through views."""
    found: list[fx.Node] = []
    for user in node.users:
        view = user in works and works[user].kind == "view"
        found.extend(_readers(user, works) if view else [user])
    return found
