r"""Expressions in n, as users write them: `log(n)`, `2*log(n)`, `n/4`.

They are arithmetic only: parsed into a syntax tree and computed in float64 from a short list of allowed parts. Nothing
is ever executed, as it is by SymPy and numexpr, which hand a text to Python's `eval`.

Notation: n nodes.
"""

import ast
import math
import operator
from collections.abc import Callable

from batchednodes.numerics.quiet import filtered

LENGTH, DEPTH = 200, 100
"""The longest expression [characters] and the deepest nesting that is read [levels]."""

_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_ONE: dict[str, Callable[[float], float]] = {"log": math.log, "log2": math.log2, "sqrt": math.sqrt, "exp": math.exp}
_MANY: dict[str, Callable[..., float]] = {"min": min, "max": max}
_ALLOWED = "expressions may use n, numbers, + - * / ** ( ), log, log2, sqrt, exp, min, max"


def shown(value: object) -> str:
    """Returns a value as Python writes it, shortened if it is long.

    Example:
        >>> from batchednodes.numerics.values import shown
        >>> shown("fast"), shown(list(range(1000)))
        ("'fast'", '[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 1... (4,890 characters)')
    """
    try:
        text = repr(value)
    except ValueError:  # an integer of over 4,300 digits, which Python does not write
        return "an integer of thousands of digits"
    return text if len(text) <= LENGTH else f"{text[:60]}... ({len(text):,} characters)"


def evaluate(text: str, n: int, key: str) -> float:
    """Returns the value of an expression in n, computed in float64; every intermediate result is finite.

    Example:
        >>> from batchednodes.numerics.expressions import evaluate
        >>> evaluate("min(n/4, 2*log2(n))", 16, "gossip.clock.rate")
        4.0
        >>> evaluate("log(m)", 16, "gossip.clock.rate")
        Traceback (most recent call last):
            ...
        ValueError: gossip.clock.rate must be a number or an expression in n, got 'log(m)': unknown name 'm'; ...

    Args:
        text: numbers, n, + - * / **, unary minus, parentheses, log, log2, sqrt, exp, min, max; at most 200 characters.
        n: number of nodes.
        key: name of the setting, for messages.

    Raises:
        ValueError: the text is no such expression, or has no finite real value at this n.
    """
    try:
        return _value(_parse(text), float(n), 0)
    except ZeroDivisionError:
        reason = f"division by zero at n = {n}"
    except OverflowError:
        reason = f"the value is too large at n = {n}"
    except ValueError as error:
        reason = str(error)
    raise ValueError(f"{key} must be a number or an expression in n, got {shown(text)}: {reason}")


def _parse(text: str) -> ast.expr:
    if len(text) > LENGTH:
        raise ValueError(f"expressions have at most {LENGTH} characters, this one {len(text)}")
    try:
        with filtered("error"):  # "1or 2" is a warning to Python, and no arithmetic to us
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError, Warning):
        raise ValueError(f"it cannot be read; {_ALLOWED}") from None


def _value(node: ast.expr, n: float, depth: int) -> float:
    if depth > DEPTH:
        raise ValueError(f"it is nested deeper than {DEPTH} levels")
    match node:
        case ast.Constant(value=int() | float() as x) if not isinstance(x, bool):
            result = float(x)
        case ast.Name(id="n"):
            result = n
        case ast.Name(id=name):
            raise ValueError(f"unknown name {shown(name)}; {_ALLOWED}")
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            result = -_value(operand, n, depth + 1)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            a, b = _value(left, n, depth + 1), _value(right, n, depth + 1)
            result = _OPERATORS[type(op)](a, b)
            if isinstance(result, complex):
                raise ValueError(f"({a:g}) ** {b:g} is not a real number")
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            result = _call(name, [_value(arg, n, depth + 1) for arg in args])
        case _:
            raise ValueError(f"{shown(ast.unparse(node))} is not arithmetic; {_ALLOWED}")
    if not math.isfinite(result):
        raise OverflowError
    return result


def _call(name: str, args: list[float]) -> float:
    if name in _MANY:
        if len(args) < 2:
            raise ValueError(f"{name} takes two or more values, got {len(args)}")
        return _MANY[name](*args)
    if name not in _ONE:
        raise ValueError(f"unknown name {shown(name)}; {_ALLOWED}")
    if len(args) != 1:
        raise ValueError(f"{name} takes one value, got {len(args)}")
    try:
        return _ONE[name](args[0])
    except ValueError:
        raise ValueError(f"{name}({args[0]:g}) is not a real number") from None
