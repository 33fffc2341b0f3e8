"""Matrix products: MatMul, Gemm, Einsum."""

from __future__ import annotations

import math

import torch

from vgcomp.errors import ModelError
from vgcomp.onnx_import.op import Op, Table
from vgcomp.onnx_import.values import Constant, Live, Parameter, Value

aten = torch.ops.aten

TABLE = Table()


def is_weight(value: Value) -> bool:
    """True for a matrix that does not depend on the network's inputs: a weight or a view of one."""
    if isinstance(value, (Constant, Parameter)):
        return True
    node = value.node
    return node.op == "get_attr" or (node.target is aten.permute.default and is_weight(Live(node.all_input_nodes[0])))


@TABLE("MatMul")
def _matmul(op: Op) -> Value:
    a, b = op[0], op[1]
    if len(b.shape) == 2 and len(a.shape) >= 2 and is_weight(b) and not is_weight(a):
        # the weight stays where it is, (in, out); linear wants (out, in): a view of it
        return op.b.call(aten.linear.default, a, op.b.permute(b, [1, 0]))
    return op.b.call(aten.matmul.default, a, b)


@TABLE("Gemm")
def _gemm(op: Op) -> Value:
    """alpha * A' B' + beta * C."""
    a, b, c = op[0], op[1], op.get(2)
    alpha, beta = op.attr_float("alpha", 1.0), op.attr_float("beta", 1.0)
    a = op.b.permute(a, [1, 0]) if op.attr_int("transA") else a
    columns = b.shape[0] if op.attr_int("transB") else b.shape[1]
    fits = c is None or (beta == 1.0 and c.shape in ((columns,), (1, columns)))
    if is_weight(b) and alpha == 1.0 and fits:
        weight = b if op.attr_int("transB") else op.b.permute(b, [1, 0])
        bias = () if c is None else (op.b.reshape(c, [columns]),)
        return op.b.call(aten.linear.default, a, weight, *bias)
    right = op.b.permute(b, [1, 0]) if op.attr_int("transB") else b
    product = op.b.mul(op.b.call(aten.matmul.default, a, right), alpha)
    return product if c is None else op.b.binary(aten.add.Tensor, product, op.b.mul(c, beta))


@TABLE("Einsum")
def _einsum(op: Op) -> Value:
    """One or two operands without repeated or broadcast indices, as permute, reshape and matmul."""
    equation = op.attr_str("equation").replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if "." in equation or not arrow or len(terms) > 2 or any(len(set(t)) != len(t) for t in (*terms, out)):
        raise ModelError(f"its equation {equation!r} is not supported")
    if len(terms) == 1:
        return _transposed_sum(op, op[0], terms[0], out)
    return _product(op, terms[0], terms[1], out)


def _transposed_sum(op: Op, x: Value, term: str, out: str) -> Value:
    """Sums the indices that ``out`` leaves out and orders the others."""
    gone = [i for i, letter in enumerate(term) if letter not in out]
    kept = [letter for letter in term if letter in out]
    x = op.b.call(aten.sum.dim_IntList, x, gone) if gone else x
    return op.b.permute(x, [kept.index(letter) for letter in out])


def _product(op: Op, left: str, right: str, out: str) -> Value:
    a, b = op[0], op[1]
    both = set(left) & set(right)
    a = _transposed_sum(op, a, left, "".join(c for c in left if c in both or c in out))
    b = _transposed_sum(op, b, right, "".join(c for c in right if c in both or c in out))
    left = "".join(c for c in left if c in both or c in out)
    right = "".join(c for c in right if c in both or c in out)
    size = {**dict(zip(left, a.shape)), **dict(zip(right, b.shape))}
    batch = [c for c in out if c in both]
    summed = [c for c in left if c in both and c not in out]
    rows = [c for c in left if c not in both]
    columns = [c for c in right if c not in both]

    def matrix(x: Value, term: str, first: list[str], last: list[str]) -> Value:
        x = op.b.permute(x, [term.index(c) for c in (*batch, *first, *last)])
        sizes = [size[c] for c in batch]
        return op.b.reshape(x, [*sizes, math.prod(size[c] for c in first), math.prod(size[c] for c in last)])

    product = op.b.call(aten.matmul.default, matrix(a, left, rows, summed), matrix(b, right, summed, columns))
    order = [*batch, *rows, *columns]
    spread = op.b.reshape(product, [size[c] for c in order])
    return op.b.permute(spread, [order.index(c) for c in out])
