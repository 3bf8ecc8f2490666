"""Numbers as RethinkDB writes them.

Every number is an IEEE double. Whole numbers up to 2**53 are written as digits, all others
by the Grisu2 algorithm (Loitsch, "Printing Floating-Point Numbers Quickly and Accurately with
Integers", 2010). Its texts always read back to the same double, but are not always the shortest:
0.1 + 0.2 is 0.30000000000000007 here. Content digests are made of these bytes, so the sandbox must
choose the same digits as a real server.
"""

import functools
import math

import msgspec

MAX_WHOLE = 2**53
_SIGNIFICAND_BITS = 52
_HIDDEN_BIT = 1 << _SIGNIFICAND_BITS
_EXPONENT_BIAS = 1023 + _SIGNIFICAND_BITS
_CACHE_FIRST, _CACHE_STEP, _CACHE_COUNT = -348, 8, 87
_MASK64 = (1 << 64) - 1


class Double(float):
    """A number that is not written as plain digits; a class, so that the encoder calls its hook."""

    __slots__ = ()


Number = int | Double


def number_from(value: float) -> Number:
    """Return ``value`` as a datum's number.

    Raises:
        ValueError: it is infinite or not a number.
    """
    if type(value) is int and -MAX_WHOLE <= value <= MAX_WHOLE:
        return value
    try:
        real = float(value)
    except OverflowError as err:
        raise ValueError("inf") from err
    if not math.isfinite(real):
        raise ValueError(str(real))
    if real.is_integer() and abs(real) <= MAX_WHOLE and not is_negative_zero(real):
        return int(real)
    return Double(real)


def number_from_text(text: str) -> Number:
    """Return the number that a JSON text means; the hook for the decoder's non-integers."""
    return number_from(float(text))


def is_negative_zero(value: float) -> bool:
    """Return whether ``value`` is -0.0, which has another text than 0 but equals it."""
    return value == 0 and math.copysign(1, value) < 0


@functools.lru_cache(maxsize=65536)
def double_text(value: float) -> str:
    """Return the text of a number that is not written as plain digits."""
    if value == 0:
        return "-0.0" if is_negative_zero(value) else "0.0"
    digits, exponent = _grisu2(abs(value))
    return ("-" if value < 0 else "") + _layout(digits, exponent)


def encode_hook(value: object) -> msgspec.Raw:
    """Encode a `Double`, the only class in a datum that the JSON encoder does not know."""
    if isinstance(value, Double):
        return msgspec.Raw(double_text(value).encode())
    raise NotImplementedError(f"cannot encode {type(value).__name__}")


def _layout(digits: str, exponent: int) -> str:
    """Place the point: plain up to 21 digits and down to six zeros, otherwise with an exponent."""
    point = len(digits) + exponent
    if exponent >= 0 and point <= 21:
        return digits + "0" * exponent + ".0"
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return "0." + "0" * -point + digits
    if len(digits) == 1:
        return f"{digits}e{point - 1}"
    return f"{digits[0]}.{digits[1:]}e{point - 1}"


@functools.cache
def _cached_power(index: int) -> tuple[int, int]:
    """Return 10**(-348 + 8 * index) as a rounded 64-bit significand and a binary exponent."""
    power = _CACHE_FIRST + _CACHE_STEP * index
    if power >= 0:
        exact, exponent = 10**power, 0
        shift = exact.bit_length() - 64
        if shift <= 0:
            return exact << -shift, shift
        significand = (exact + (1 << (shift - 1))) >> shift
    else:
        divisor = 10**-power
        shift = -(divisor.bit_length() + 63)
        significand = ((1 << (-shift + 1)) // divisor + 1) >> 1
        if significand >> 64 == 0 and significand.bit_length() < 64:
            shift -= 1
            significand = ((1 << (-shift + 1)) // divisor + 1) >> 1
        exponent = 0
    if significand > _MASK64:
        significand, shift = significand >> 1, shift + 1
    return significand, shift + exponent


def _multiply(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """Multiply two 64-bit floating-point numbers, keeping the upper 64 bits, rounded."""
    return (a[0] * b[0] + (1 << 63)) >> 64, a[1] + b[1] + 64


def _normalized(significand: int, exponent: int) -> tuple[int, int]:
    shift = 64 - significand.bit_length()
    return significand << shift, exponent - shift


def _grisu2(value: float) -> tuple[str, int]:
    """Return digits and a decimal exponent: value == int(digits) * 10**exponent."""
    fraction, exponent2 = math.frexp(value)
    significand = int(fraction * (1 << 53))
    exponent2 -= 53
    smallest = 1 - _EXPONENT_BIAS
    if exponent2 < smallest:  # subnormal: no hidden bit
        significand >>= smallest - exponent2
        exponent2 = smallest
    upper = _normalized((significand << 1) + 1, exponent2 - 1)
    if significand == _HIDDEN_BIT:
        lower = ((significand << 2) - 1, exponent2 - 2)
    else:
        lower = ((significand << 1) - 1, exponent2 - 1)
    lower = (lower[0] << (lower[1] - upper[1]), upper[1])

    estimate = (-61 - upper[1]) * 0.30102999566398114 + 347
    index = (math.ceil(estimate) >> 3) + 1
    power = _cached_power(index)
    scaled = _multiply(_normalized(significand, exponent2), power)
    high = _multiply(upper, power)
    low = _multiply(lower, power)
    exponent10 = -(_CACHE_FIRST + index * _CACHE_STEP)
    return _digits(scaled, (high[0] - 1, high[1]), high[0] - 1 - (low[0] + 1), exponent10)


def _digits(
    scaled: tuple[int, int], high: tuple[int, int], delta: int, exponent10: int
) -> tuple[str, int]:
    """Generate the fewest digits of ``high`` that stay within ``delta`` of it."""
    shift = -high[1]
    one = 1 << shift
    distance = high[0] - scaled[0]
    whole, part = high[0] >> shift, high[0] & (one - 1)
    digits: list[int] = []
    for place in reversed(range(len(str(whole)))):
        unit = 10**place
        digit, whole = divmod(whole, unit)
        if digit or digits:
            digits.append(digit)
        rest = (whole << shift) + part
        if rest <= delta:
            _round_towards(digits, delta, rest, unit << shift, distance)
            return "".join(map(str, digits)), exponent10 + place
    places = 0
    while True:
        part *= 10
        delta *= 10
        places += 1
        digit = part >> shift
        if digit or digits:
            digits.append(digit)
        part &= one - 1
        if part < delta:
            # The server's table of powers ends at 10**9. Beyond it the distance counts as 0, so
            # the last digit stays as generated. That is why its texts are not always the shortest.
            scaled_distance = distance * 10**places & _MASK64 if places <= 9 else 0
            _round_towards(digits, delta, part, one, scaled_distance)
            exponent10 -= places
            return "".join(map(str, digits)), exponent10


def _round_towards(digits: list[int], delta: int, rest: int, unit: int, distance: int) -> None:
    """Lower the last digit while that comes closer to the true value."""
    while (
        rest < distance
        and delta - rest >= unit
        and (rest + unit < distance or distance - rest > rest + unit - distance)
    ):
        digits[-1] -= 1
        rest += unit
