"""Vectors of R floats for numba kernels: what the compiler would have to guess from scalar loops, said outright.

Left to find the vectors itself, LLVM unrolls loops of 4 to 32 first and then emits scalar code, 3 (R=8) to
18 (R=32) times slower. With these few words a [R, R] state on the stack becomes R vector registers.
"""
# numba and llvmlite have few types
# mypy: allow-untyped-calls, allow-untyped-decorators, allow-subclassing-any

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, models, register_model

FLOATS = types.CPointer(types.float32)
_FLOAT = ir.FloatType()
_CONTRACT = ("contract",)  # lets a*b + c become one fused instruction; nothing is reordered


class Vector(types.Type):
    """The numba type of `lanes` float32 values in a register."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"float32x{lanes}")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(_FLOAT, fe_type.lanes))


def _at(builder: Any, pointer: Any, index: Any, lanes: int) -> Any:
    return builder.bitcast(builder.gep(pointer, [index]), ir.VectorType(_FLOAT, lanes).as_pointer())


@intrinsic(prefer_literal=True)
def stack(_context: Any, size: Any) -> Any:
    """`stack(size)`: a pointer to `size` floats on the stack; `size` is a constant."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        with builder.goto_entry_block():
            memory = builder.alloca(ir.ArrayType(_FLOAT, size.literal_value))
        memory.align = 64
        return builder.bitcast(memory, _FLOAT.as_pointer())

    return FLOATS(size), generate


@intrinsic(prefer_literal=True)
def load(_context: Any, pointer: Any, index: Any, lanes: Any) -> Any:
    """`load(pointer, index, lanes)`: the vector pointer[index : index + lanes]; `lanes` is a constant."""
    vector = Vector(lanes.literal_value)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_at(builder, args[0], args[1], vector.lanes), align=4)

    return vector(pointer, types.int64, lanes), generate


@intrinsic
def store(_context: Any, pointer: Any, index: Any, vector: Any) -> Any:
    """`store(pointer, index, vector)`: pointer[index : index + lanes] = vector."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _at(builder, args[0], args[1], vector.lanes), align=4)
        return context.get_dummy_value()

    return types.void(pointer, types.int64, vector), generate


@intrinsic(prefer_literal=True)
def spread(_context: Any, scalar: Any, lanes: Any) -> Any:
    """`spread(scalar, lanes)`: the vector with `scalar` in each lane."""
    vector = Vector(lanes.literal_value)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        nothing = ir.Constant(ir.VectorType(_FLOAT, vector.lanes), ir.Undefined)
        first = ir.Constant(ir.IntType(32), 0)
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), vector.lanes), [0] * vector.lanes)
        return builder.shuffle_vector(builder.insert_element(nothing, args[0], first), nothing, everywhere)

    return vector(types.float32, lanes), generate


@intrinsic
def mul(_context: Any, a: Any, b: Any) -> Any:
    """`mul(a, b)`: a * b, lane by lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fmul(*args, flags=_CONTRACT)

    return a(a, b), generate


@intrinsic
def mul_add(_context: Any, a: Any, b: Any, c: Any) -> Any:
    """`mul_add(a, b, c)`: a * b + c, lane by lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(builder.fmul(args[0], args[1], flags=_CONTRACT), args[2], flags=_CONTRACT)

    return a(a, b, c), generate


@intrinsic
def neg(_context: Any, a: Any) -> Any:
    """`neg(a)`: -a, lane by lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fneg(*args)

    return a(a), generate
