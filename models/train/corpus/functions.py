"""Documents of small, correct, idiomatic Python.

A tiny model cannot learn Python from repositories: too much of their text
depends on things far away.  Here every function is short, says in its name
what its body does, and uses only its own parameters, so that `def add(a, b):`
has one natural continuation, seen many times.  Names, type hints, docstrings,
quotes and loop styles vary, consistently inside a document, so that the model
learns to copy the names it was given rather than a fixed text.

The kinds of function are data, in this small format:

    == add plus * 10             a kind: names for `$f` and, after `*`, a weight
    vars a b|x y ; total|result  renamings, by group; `$a` stands for the first
    def $f($a: int, $b: int) -> int:
        ...                      the source; `--` alone on a line begins another
    >> 2, #                      arguments of a call that is tested or printed,
                                 or an expression with `$f` in it
    >! point = $f(1, 2)          a statement to run before the calls below it

In a call, `#` is a number, `@` a list of numbers, `%` a word, `&` a list of
words.  The expected value of each call is found by running the generated
source, so a generated test never claims what is not so.
"""

import random
import re
from dataclasses import dataclass, replace
from string import Template
from typing import Any

FUNCTIONS_PER_DOCUMENT = (2, 6)
CALLS_PER_FUNCTION = 3
LONGEST_LINE = 88
LARGEST_NUMBER = 20
LIST_LENGTH = (3, 5)

FIRST_CHOICE_SHARE = 0.5
"""How often the first name, renaming or source of a kind is the one used."""
CALCULATOR_SHARE = 0.12
"""How many documents are the four operations, the most usual beginner's file."""
TYPE_HINTS_SHARE = 0.3
DOCSTRINGS_SHARE = 0.35
COMMENTS_SHARE = 0.3
"""How many documents keep comments; where there are no docstrings, their texts
become comments above the functions."""
SINGLE_QUOTES_SHARE = 0.2
MAIN_FUNCTION_SHARE = 0.3
"""How many of the `__main__` blocks only call a function named `main`."""
MODULE_DOCSTRING_SHARE = 0.12

ENDINGS = (("none", 40), ("tests", 20), ("asserts", 12), ("main", 18), ("prints", 10))
"""What follows the functions, with weights."""

CALL_MARKS = (">> ", ">! ")
CALCULATOR = ("add", "subtract", "multiply", "divide")
MODULE_DOCSTRINGS = (
    "Small helper functions.",
    "Utility functions.",
    "Some useful helpers.",
    "Simple examples.",
    "Helpers used in several places.",
    "A few small functions.",
)
WORDS = (
    "apple banana cherry dog cat bird fish tree house river stone cloud python "
    "hello world code level radar noon green blue red garden window light moon"
).split()

NUMBERS = r'''
== add add_numbers sum_two plus * 18
vars a b|x y|first second|left right|num1 num2
def $f($a: int, $b: int) -> int:
    """Return the sum of $a and $b."""
    return $a + $b
--
def $f($a: float, $b: float) -> float:
    """Add $b to $a."""
    return $a + $b
--
def $f($a: float, $b: float) -> float:
    """Add two numbers."""
    result = $a + $b
    return result
>> #, #
>> #, #
>> -1, 1

== subtract sub minus difference * 7
vars a b|x y|first second|left right|num1 num2
def $f($a: int, $b: int) -> int:
    """Return $a minus $b."""
    return $a - $b
--
def $f($a: float, $b: float) -> float:
    """Return the difference of $a and $b."""
    return $a - $b
--
def $f($a: float, $b: float) -> float:
    """Subtract $b from $a."""
    result = $a - $b
    return result
>> #, #
>> 10, 4

== multiply mul times product_of_two * 7
vars a b|x y|first second|left right|num1 num2
def $f($a: int, $b: int) -> int:
    """Return the product of $a and $b."""
    return $a * $b
--
def $f($a: float, $b: float) -> float:
    """Multiply $a by $b."""
    return $a * $b
--
def $f($a: float, $b: float) -> float:
    """Multiply two numbers."""
    result = $a * $b
    return result
>> #, #
>> 3, 4

== divide div safe_divide quotient * 5
vars a b|x y|first second|num1 num2|numerator denominator
def $f($a: float, $b: float) -> float:
    """Divide $a by $b."""
    if $b == 0:
        raise ValueError("cannot divide by zero")
    return $a / $b
--
def $f($a: float, $b: float) -> float:
    """Return $a divided by $b."""
    return $a / $b
--
def $f($a: float, $b: float) -> float:
    """Divide $a by $b, which must not be zero."""
    if $b == 0:
        raise ZeroDivisionError("division by zero")
    return $a / $b
>> 10, 2
>> 9, 3
>> 7, 2

== square squared * 3
vars x|n|number|value
def $f($x: int) -> int:
    """Return the square of $x."""
    return $x * $x
--
def $f($x: int) -> int:
    """Return $x squared."""
    return $x ** 2
>> #
>> 5

== cube cubed
vars x|n|number|value
def $f($x: int) -> int:
    """Return the cube of $x."""
    return $x * $x * $x
--
def $f($x: int) -> int:
    """Return $x to the third power."""
    return $x ** 3
>> 2
>> #

== double twice times_two * 2
vars x|n|number|value
def $f($x: int) -> int:
    """Return twice $x."""
    return $x * 2
--
def $f($x: int) -> int:
    """Double the number $x."""
    return 2 * $x
>> #
>> 0

== increment add_one plus_one next_number
vars n|x|number|value
def $f($n: int) -> int:
    """Return the number after $n."""
    return $n + 1
>> #
>> -1

== negate negative opposite
vars x|n|number|value
def $f($x: int) -> int:
    """Return $x with its sign changed."""
    return -$x
>> #
>> -7

== absolute absolute_value magnitude
vars x|n|number|value
def $f($x: int) -> int:
    """Return the absolute value of $x."""
    if $x < 0:
        return -$x
    return $x
--
def $f($x: int) -> int:
    """Return $x without its sign."""
    return -$x if $x < 0 else $x
>> -#
>> #

== sign sign_of signum
vars x|n|number|value
def $f($x: int) -> int:
    """Return 1, 0 or -1 for the sign of $x."""
    if $x > 0:
        return 1
    if $x < 0:
        return -1
    return 0
--
def $f($x: int) -> int:
    """Return the sign of $x."""
    if $x > 0:
        return 1
    elif $x < 0:
        return -1
    else:
        return 0
>> #
>> -3
>> 0

== power raise_to exponent
vars base exponent|x n|number times
def $f($base: int, $exponent: int) -> int:
    """Return $base raised to $exponent."""
    return $base ** $exponent
--
def $f($base: int, $exponent: int) -> int:
    """Multiply $base by itself $exponent times."""
    result = 1
    for _ in range($exponent):
        result *= $base
    return result
>> 2, 3
>> 5, 2
>> 7, 0

== is_even even check_even * 3
vars n|x|number|value
def $f($n: int) -> bool:
    """Return True if $n is even."""
    return $n % 2 == 0
--
def $f($n: int) -> bool:
    """Tell whether $n can be divided by two."""
    if $n % 2 == 0:
        return True
    return False
>> #
>> 4
>> 7

== is_odd odd check_odd * 2
vars n|x|number|value
def $f($n: int) -> bool:
    """Return True if $n is odd."""
    return $n % 2 == 1
--
def $f($n: int) -> bool:
    """Return True if $n is odd."""
    return $n % 2 != 0
>> #
>> 3

== is_positive positive
vars n|x|number|value
def $f($n: int) -> bool:
    """Return True if $n is greater than zero."""
    return $n > 0
>> 5
>> -#
>> 0

== is_divisible divides is_multiple
vars n divisor|number factor|a b|x y
def $f($n: int, $divisor: int) -> bool:
    """Return True if $n is a multiple of $divisor."""
    return $n % $divisor == 0
>> 12, 3
>> 10, 4

== maximum larger max_of_two bigger * 2
vars a b|x y|first second|left right
def $f($a: int, $b: int) -> int:
    """Return the larger of $a and $b."""
    if $a > $b:
        return $a
    return $b
--
def $f($a: int, $b: int) -> int:
    """Return the larger of two numbers."""
    return $a if $a > $b else $b
--
def $f($a: int, $b: int) -> int:
    """Return the larger of two numbers."""
    return max($a, $b)
>> #, #
>> 3, 8

== minimum smaller min_of_two lesser * 2
vars a b|x y|first second|left right
def $f($a: int, $b: int) -> int:
    """Return the smaller of $a and $b."""
    if $a < $b:
        return $a
    return $b
--
def $f($a: int, $b: int) -> int:
    """Return the smaller of two numbers."""
    return min($a, $b)
>> #, #
>> 3, 8

== max_of_three largest_of_three
vars a b c|x y z|first second third
def $f($a: int, $b: int, $c: int) -> int:
    """Return the largest of three numbers."""
    return max($a, $b, $c)
--
def $f($a: int, $b: int, $c: int) -> int:
    """Return the largest of three numbers."""
    largest = $a
    if $b > largest:
        largest = $b
    if $c > largest:
        largest = $c
    return largest
>> #, #, #
>> 1, 2, 3

== clamp limit restrict keep_between
vars value low high|x lower upper|n minimum maximum|number smallest largest
def $f($value: int, $low: int, $high: int) -> int:
    """Keep $value between $low and $high."""
    return max($low, min($value, $high))
--
def $f($value: int, $low: int, $high: int) -> int:
    """Keep $value between $low and $high."""
    if $value < $low:
        return $low
    if $value > $high:
        return $high
    return $value
>> 5, 0, 10
>> -3, 0, 10
>> 15, 0, 10

== is_between in_range within
vars value low high|x lower upper|n start end
def $f($value: int, $low: int, $high: int) -> bool:
    """Return True if $value lies between $low and $high."""
    return $low <= $value <= $high
>> 5, 1, 10
>> 12, 1, 10

== average_of_two midpoint mean_of_two
vars a b|x y|first second|left right
def $f($a: float, $b: float) -> float:
    """Return the number half way between $a and $b."""
    return ($a + $b) / 2
>> #, #
>> 4, 8

== percentage percent percent_of
vars part whole|count total|score maximum
def $f($part: float, $whole: float) -> float:
    """Return $part as a percentage of $whole."""
    return 100 * $part / $whole
--
def $f($part: float, $whole: float) -> float:
    """Return $part as a percentage of $whole."""
    if $whole == 0:
        return 0.0
    return $part / $whole * 100
>> 1, 4
>> 5, 10

== area rectangle_area area_of_rectangle * 3
vars width height|length width|w h|a b
def $f($width: float, $height: float) -> float:
    """Return the area of a rectangle."""
    return $width * $height
--
def $f($width: float, $height: float) -> float:
    """Return the area of a rectangle."""
    if $width < 0 or $height < 0:
        raise ValueError("sides must not be negative")
    return $width * $height
>> 3, 4
>> #, #

== perimeter rectangle_perimeter
vars width height|length width|w h|a b
def $f($width: float, $height: float) -> float:
    """Return the perimeter of a rectangle."""
    return 2 * ($width + $height)
--
def $f($width: float, $height: float) -> float:
    """Return the distance around a rectangle."""
    return 2 * $width + 2 * $height
>> 3, 4
>> #, #

== circle_area area_of_circle * 2
vars radius|r
import math
def $f($radius: float) -> float:
    """Return the area of a circle."""
    return math.pi * $radius ** 2
--
from math import pi
def $f($radius: float) -> float:
    """Return the area of a circle with this radius."""
    return pi * $radius * $radius
>> round($f(1), 2)
>> round($f(2), 2)

== circumference circle_length
vars radius|r
import math
def $f($radius: float) -> float:
    """Return the distance around a circle."""
    return 2 * math.pi * $radius
>> round($f(1), 2)

== triangle_area area_of_triangle
vars base height|b h|width height
def $f($base: float, $height: float) -> float:
    """Return the area of a triangle."""
    return $base * $height / 2
--
def $f($base: float, $height: float) -> float:
    """Return half of $base times $height."""
    return 0.5 * $base * $height
>> 6, 4
>> 3, 5

== hypotenuse longest_side
vars a b|x y|width height
import math
def $f($a: float, $b: float) -> float:
    """Return the longest side of a right triangle."""
    return math.sqrt($a ** 2 + $b ** 2)
--
import math
def $f($a: float, $b: float) -> float:
    """Return the longest side of a right triangle."""
    return math.hypot($a, $b)
>> 3, 4
>> 6, 8

== distance distance_between
vars x1 y1 x2 y2
import math
def $f($x1: float, $y1: float, $x2: float, $y2: float) -> float:
    """Return the distance between two points."""
    dx = $x2 - $x1
    dy = $y2 - $y1
    return math.sqrt(dx * dx + dy * dy)
>> 0, 0, 3, 4
>> 1, 1, 1, 5

== celsius_to_fahrenheit to_fahrenheit c_to_f * 2
vars celsius|c|degrees|temperature
def $f($celsius: float) -> float:
    """Convert degrees Celsius to Fahrenheit."""
    return $celsius * 9 / 5 + 32
>> 0
>> 100
>> 20

== fahrenheit_to_celsius to_celsius f_to_c
vars fahrenheit|f|degrees|temperature
def $f($fahrenheit: float) -> float:
    """Convert degrees Fahrenheit to Celsius."""
    return ($fahrenheit - 32) * 5 / 9
>> 32
>> 212
>> 50

== minutes_to_seconds to_seconds
vars minutes|m|duration
def $f($minutes: int) -> int:
    """Convert minutes to seconds."""
    return $minutes * 60
>> #
>> 2

== split_seconds seconds_to_time
vars seconds|total_seconds|duration
def $f($seconds: int) -> tuple[int, int]:
    """Split $seconds into minutes and seconds."""
    return $seconds // 60, $seconds % 60
--
def $f($seconds: int) -> tuple[int, int]:
    """Return the minutes and the seconds left over."""
    return divmod($seconds, 60)
>> 90
>> 125

== discount apply_discount price_after_discount
vars price percent|amount percentage|cost rate
def $f($price: float, $percent: float) -> float:
    """Return $price reduced by $percent percent."""
    return $price * (100 - $percent) / 100
--
def $f($price: float, $percent: float) -> float:
    """Return $price reduced by $percent percent."""
    if not 0 <= $percent <= 100:
        raise ValueError("discount must be between 0 and 100")
    return $price - $price * $percent / 100
>> 100, 20
>> 50, 10

== total_price order_total
vars price quantity|unit_price count|cost amount
def $f($price: float, $quantity: int = 1) -> float:
    """Return the price of $quantity items."""
    return $price * $quantity
>> 3, 4
>> 5

== factorial fact * 5
vars n|number|x
def $f($n: int) -> int:
    """Return the factorial of $n."""
    if $n == 0:
        return 1
    return $n * $f($n - 1)
--
def $f($n: int) -> int:
    """Return the product of the numbers from 1 to $n."""
    result = 1
    for i in range(2, $n + 1):
        result *= i
    return result
--
def $f($n: int) -> int:
    """Return the factorial of $n."""
    if $n <= 1:
        return 1
    return $n * $f($n - 1)
--
def $f($n: int) -> int:
    """Return the factorial of $n, which must not be negative."""
    if $n < 0:
        raise ValueError("$n must not be negative")
    result = 1
    for i in range(1, $n + 1):
        result = result * i
    return result
>> 5
>> 0
>> 3

== fibonacci fib nth_fibonacci * 5
vars n|number|index
def $f($n: int) -> int:
    """Return the Fibonacci number at position $n."""
    if $n < 2:
        return $n
    return $f($n - 1) + $f($n - 2)
--
def $f($n: int) -> int:
    """Return the Fibonacci number at position $n."""
    a, b = 0, 1
    for _ in range($n):
        a, b = b, a + b
    return a
--
from functools import lru_cache
@lru_cache(maxsize=None)
def $f($n: int) -> int:
    """Return a Fibonacci number, remembering earlier ones."""
    if $n < 2:
        return $n
    return $f($n - 1) + $f($n - 2)
>> 10
>> 1
>> 7

== fibonacci_list first_fibonacci fibonacci_numbers
vars count|n|length
def $f($count: int) -> list[int]:
    """Return the first $count Fibonacci numbers."""
    numbers = []
    a, b = 0, 1
    while len(numbers) < $count:
        numbers.append(a)
        a, b = b, a + b
    return numbers
>> 6
>> 3

== fibonacci_generator generate_fibonacci
vars limit|stop|maximum
def $f($limit: int):
    """Yield the Fibonacci numbers below $limit."""
    a, b = 0, 1
    while a < $limit:
        yield a
        a, b = b, a + b
>> list($f(10))
>> list($f(30))

== memo_fibonacci cached_fibonacci
vars n|number ; cache|memo|known
def $f($n: int, $cache=None) -> int:
    """Return a Fibonacci number, keeping results in a dictionary."""
    if $cache is None:
        $cache = {}
    if $n in $cache:
        return $cache[$n]
    if $n < 2:
        return $n
    result = $f($n - 1, $cache) + $f($n - 2, $cache)
    $cache[$n] = result
    return result
>> 10
>> 20

== gcd greatest_common_divisor * 3
vars a b|x y|m n
def $f($a: int, $b: int) -> int:
    """Return the greatest common divisor of $a and $b."""
    while $b:
        $a, $b = $b, $a % $b
    return $a
--
def $f($a: int, $b: int) -> int:
    """Return the greatest common divisor of $a and $b."""
    if $b == 0:
        return $a
    return $f($b, $a % $b)
>> 12, 18
>> 7, 5
>> 20, 8

== lcm least_common_multiple
vars a b|x y|m n
import math
def $f($a: int, $b: int) -> int:
    """Return the smallest multiple of both $a and $b."""
    return $a * $b // math.gcd($a, $b)
>> 4, 6
>> 3, 5

== is_prime prime check_prime * 5
vars n|number|x
def $f($n: int) -> bool:
    """Return True if $n is a prime number."""
    if $n < 2:
        return False
    for i in range(2, $n):
        if $n % i == 0:
            return False
    return True
--
def $f($n: int) -> bool:
    """Return True if $n has no divisor but 1 and itself."""
    if $n < 2:
        return False
    # No divisor can be larger than the square root.
    divisor = 2
    while divisor * divisor <= $n:
        if $n % divisor == 0:
            return False
        divisor += 1
    return True
--
def $f($n: int) -> bool:
    """Return True if $n is a prime number."""
    if $n < 2:
        return False
    for i in range(2, int($n ** 0.5) + 1):
        if $n % i == 0:
            return False
    return True
--
def $f($n: int) -> bool:
    """Return True if $n is a prime number."""
    return $n > 1 and all($n % i != 0 for i in range(2, $n))
>> 7
>> 9
>> #

== divisors factors find_divisors
vars n|number|x
def $f($n: int) -> list[int]:
    """Return the numbers that divide $n."""
    return [i for i in range(1, $n + 1) if $n % i == 0]
--
def $f($n: int) -> list[int]:
    """Return the numbers that divide $n."""
    result = []
    for i in range(1, $n + 1):
        if $n % i == 0:
            result.append(i)
    return result
>> 12
>> 7

== prime_factors factorize
vars n|number
def $f($n: int) -> list[int]:
    """Return the prime factors of $n."""
    result = []
    divisor = 2
    while $n > 1:
        # Divide as often as possible.
        while $n % divisor == 0:
            result.append(divisor)
            $n //= divisor
        divisor += 1
    return result
>> 12
>> 30

== sum_digits digit_sum sum_of_digits * 2
vars n|number|x
def $f($n: int) -> int:
    """Return the sum of the digits of $n."""
    return sum(int(digit) for digit in str($n))
--
def $f($n: int) -> int:
    """Return the sum of the digits of $n."""
    total = 0
    while $n > 0:
        total += $n % 10
        $n //= 10
    return total
>> 123
>> 405

== sum_to sum_up_to sum_range * 2
vars n|number|limit
def $f($n: int) -> int:
    """Return the sum of the numbers from 1 to $n."""
    return $n * ($n + 1) // 2
--
def $f($n: int) -> int:
    """Return the sum of the numbers from 1 to $n."""
    total = 0
    for i in range(1, $n + 1):
        total += i
    return total
--
def $f($n: int) -> int:
    """Return the sum of the numbers from 1 to $n."""
    return sum(range(1, $n + 1))
>> 10
>> #

== fizzbuzz fizz_buzz * 2
vars n|number|i
def $f($n: int) -> str:
    """Return Fizz, Buzz, FizzBuzz or the number itself."""
    if $n % 15 == 0:
        return "FizzBuzz"
    if $n % 3 == 0:
        return "Fizz"
    if $n % 5 == 0:
        return "Buzz"
    return str($n)
>> 3
>> 5
>> 15
>> 7

== countdown count_down
vars n|start|number
def $f($n: int):
    """Yield the numbers from $n down to 1."""
    while $n > 0:
        yield $n
        $n -= 1
--
def $f($n: int):
    """Yield the numbers from $n down to 1."""
    for i in range($n, 0, -1):
        yield i
>> list($f(3))
>> list($f(5))

== even_numbers generate_evens evens_below
vars limit|stop|n
def $f($limit: int):
    """Yield the even numbers below $limit."""
    for number in range(0, $limit, 2):
        yield number
>> list($f(10))

== squares first_squares list_of_squares * 2
vars n|count|limit
def $f($n: int) -> list[int]:
    """Return the squares of the numbers below $n."""
    return [i * i for i in range($n)]
--
def $f($n: int) -> list[int]:
    """Return the squares of the numbers below $n."""
    result = []
    for i in range($n):
        result.append(i * i)
    return result
>> 5
>> 4

== is_leap_year leap_year
vars year|y
def $f($year: int) -> bool:
    """Return True if $year has 366 days."""
    if $year % 400 == 0:
        return True
    if $year % 100 == 0:
        return False
    return $year % 4 == 0
--
def $f($year: int) -> bool:
    """Return True if $year has 366 days."""
    return $year % 4 == 0 and ($year % 100 != 0 or $year % 400 == 0)
>> 2000
>> 1900
>> 2024

== grade letter_grade get_grade
vars score|points|mark
def $f($score: int) -> str:
    """Return the letter for $score."""
    if $score >= 90:
        return "A"
    if $score >= 80:
        return "B"
    if $score >= 70:
        return "C"
    return "F"
>> 95
>> 83
>> 40

== calculate compute evaluate
vars a operator b|x op y|left symbol right
def $f($a: int, $operator: str, $b: int) -> int:
    """Apply one of the operators +, - and *."""
    if $operator == "+":
        return $a + $b
    if $operator == "-":
        return $a - $b
    if $operator == "*":
        return $a * $b
    raise ValueError(f"unknown operator: {$operator}")
>> 2, "+", 3
>> 6, "*", 7
>> 9, "-", 4

== swap exchange
vars a b|x y|first second|left right
def $f($a, $b):
    """Return the two values in the other order."""
    return $b, $a
>> 1, 2
>> %, %

== to_binary binary_digits
vars n|number
def $f($n: int) -> str:
    """Write $n with the digits 0 and 1."""
    if $n == 0:
        return "0"
    digits = ""
    while $n > 0:
        digits = str($n % 2) + digits
        $n //= 2
    return digits
--
def $f($n: int) -> str:
    """Write $n with the digits 0 and 1."""
    return bin($n)[2:]
>> 5
>> 8
>> 0
'''

STRINGS = r'''
== greet make_greeting say_hello hello * 5
vars name|person|user
def $f($name: str) -> str:
    """Return a greeting for $name."""
    return f"Hello, {$name}!"
--
def $f($name: str) -> str:
    """Greet someone by name."""
    return "Hello, " + $name + "!"
--
def $f($name: str = "World") -> str:
    """Return a greeting."""
    return f"Hello, {$name}!"
>> "Anna"
>> "Tom"
>> "World"

== print_hello say_hi print_greeting * 2
vars name|person|user
def $f($name: str) -> None:
    """Print a greeting."""
    print(f"Hello, {$name}!")
--
def $f($name: str) -> None:
    """Print a greeting."""
    print("Hello,", $name)

== reverse reverse_string reversed_text * 4
vars text|s|word|string
def $f($text: str) -> str:
    """Return $text backwards."""
    return $text[::-1]
--
def $f($text: str) -> str:
    """Return the letters of $text from last to first."""
    result = ""
    for char in $text:
        result = char + result
    return result
--
def $f($text: str) -> str:
    """Return $text backwards."""
    return "".join(reversed($text))
>> %
>> "abc"

== is_palindrome palindrome * 3
vars text|s|word
def $f($text: str) -> bool:
    """Return True if $text reads the same backwards."""
    return $text == $text[::-1]
--
def $f($text: str) -> bool:
    """Return True if $text reads the same backwards."""
    $text = $text.lower()
    return $text == $text[::-1]
--
def $f($text: str) -> bool:
    """Return True if $text reads the same backwards."""
    left, right = 0, len($text) - 1
    while left < right:
        if $text[left] != $text[right]:
            return False
        left += 1
        right -= 1
    return True
>> "level"
>> %

== count_words word_count number_of_words * 4
vars text|sentence|line|s
def $f($text: str) -> int:
    """Return the number of words in $text."""
    return len($text.split())
--
def $f($text: str) -> int:
    """Count the words in $text."""
    words = $text.split()
    return len(words)
>> "the cat sat"
>> "hello world"
>> ""

== count_vowels number_of_vowels * 2
vars text|word|s
def $f($text: str) -> int:
    """Return the number of vowels in $text."""
    return sum(1 for char in $text if char in "aeiou")
--
def $f($text: str) -> int:
    """Count the vowels in $text."""
    count = 0
    for char in $text:
        if char in "aeiou":
            count += 1
    return count
>> %
>> "hello"

== count_letter count_char occurrences
vars text letter|word char|s c
def $f($text: str, $letter: str) -> int:
    """Count how often $letter is in $text."""
    return $text.count($letter)
--
def $f($text: str, $letter: str) -> int:
    """Count how often $letter is in $text."""
    count = 0
    for current in $text:
        if current == $letter:
            count += 1
    return count
>> "banana", "a"
>> "hello", "l"

== char_counts count_letters letter_counts * 2
vars text|word|s ; counts|result
def $f($text: str) -> dict[str, int]:
    """Return how often each letter is in $text."""
    $counts = {}
    for char in $text:
        $counts[char] = $counts.get(char, 0) + 1
    return $counts
--
def $f($text: str) -> dict[str, int]:
    """Return how often each letter is in $text."""
    $counts = {}
    for char in $text:
        if char in $counts:
            $counts[char] += 1
        else:
            $counts[char] = 1
    return $counts
>> "aab"
>> "noon"

== word_counts count_each_word word_frequency * 2
vars text|sentence|line
def $f($text: str) -> dict[str, int]:
    """Return how often each word is in $text."""
    counts = {}
    for word in $text.split():
        counts[word] = counts.get(word, 0) + 1
    return counts
--
from collections import Counter
def $f($text: str) -> dict[str, int]:
    """Return how often each word is in $text."""
    return dict(Counter($text.split()))
>> "a b a"
>> "one two two"

== capitalize_words title_case
vars text|sentence|s
def $f($text: str) -> str:
    """Begin each word of $text with a capital letter."""
    return " ".join(word.capitalize() for word in $text.split())
--
def $f($text: str) -> str:
    """Begin each word of $text with a capital letter."""
    words = []
    for word in $text.split():
        words.append(word.capitalize())
    return " ".join(words)
>> "hello world"
>> "the red house"

== shout to_upper upper_case
vars text|word|message
def $f($text: str) -> str:
    """Return $text in capital letters."""
    return $text.upper()
>> %

== remove_spaces strip_spaces without_spaces
vars text|line|s
def $f($text: str) -> str:
    """Return $text without its spaces."""
    return $text.replace(" ", "")
--
def $f($text: str) -> str:
    """Return $text without its spaces."""
    return "".join($text.split(" "))
>> "a b c"
>> "hello world"

== remove_vowels without_vowels
vars text|word|s
def $f($text: str) -> str:
    """Return $text without its vowels."""
    return "".join(char for char in $text if char not in "aeiou")
--
def $f($text: str) -> str:
    """Return $text without its vowels."""
    result = ""
    for char in $text:
        if char not in "aeiou":
            result += char
    return result
>> %
>> "hello"

== longest_word find_longest_word * 2
vars words|names|items
def $f($words: list[str]) -> str:
    """Return the longest of $words."""
    return max($words, key=len)
--
def $f($words: list[str]) -> str:
    """Return the longest of $words."""
    longest = ""
    for word in $words:
        # Keep the first of equally long words.
        if len(word) > len(longest):
            longest = word
    return longest
>> &
>> ["a", "abc", "ab"]

== join_words join_with_commas comma_separated
vars words|names|items
def $f($words: list[str]) -> str:
    """Join $words with commas."""
    return ", ".join($words)
>> &

== split_lines get_lines non_empty_lines
vars text|content|data
def $f($text: str) -> list[str]:
    """Return the lines of $text that are not empty."""
    return [line for line in $text.splitlines() if line]
--
def $f($text: str) -> list[str]:
    """Return the lines of $text that are not empty."""
    lines = []
    for line in $text.splitlines():
        if line:
            lines.append(line)
    return lines
>> "a\n\nb"

== truncate shorten cut
vars text length|s limit|message size
def $f($text: str, $length: int) -> str:
    """Cut $text after $length characters."""
    if len($text) <= $length:
        return $text
    return $text[:$length] + "..."
>> "hello world", 5
>> "hi", 5

== repeat repeat_text repeat_string
vars text times|word count|s n
def $f($text: str, $times: int) -> str:
    """Return $text written $times times."""
    return $text * $times
--
def $f($text: str, $times: int) -> str:
    """Return $text written $times times."""
    result = ""
    for _ in range($times):
        result += $text
    return result
>> "ab", 3
>> "x", 5

== starts_with has_prefix
vars text prefix|word start|s beginning
def $f($text: str, $prefix: str) -> bool:
    """Return True if $text begins with $prefix."""
    return $text.startswith($prefix)
--
def $f($text: str, $prefix: str) -> bool:
    """Return True if $text begins with $prefix."""
    return $text[: len($prefix)] == $prefix
>> "python", "py"
>> "hello", "he"
>> "green", "b"

== first_letter first_char initial
vars text|word|name
def $f($text: str) -> str:
    """Return the first letter of $text."""
    return $text[0]
>> %

== initials get_initials
vars name|full_name
def $f($name: str) -> str:
    """Return the first letter of each part of $name."""
    return "".join(part[0] for part in $name.split())
>> "Ada Lovelace"
>> "Alan Turing"

== full_name make_name join_name
vars first last|given family|first_name last_name
def $f($first: str, $last: str) -> str:
    """Join the two parts of a name."""
    return f"{$first} {$last}"
--
def $f($first: str, $last: str) -> str:
    """Join the two parts of a name."""
    return $first + " " + $last
>> "Ada", "Lovelace"
>> "Grace", "Hopper"

== is_anagram anagrams are_anagrams
vars first second|a b|left right|s t
def $f($first: str, $second: str) -> bool:
    """Return True if both words have the same letters."""
    return sorted($first) == sorted($second)
>> "listen", "silent"
>> "cat", "dog"

== slugify make_slug to_slug
vars title|text|name
def $f($title: str) -> str:
    """Turn $title into lower case words with dashes."""
    return "-".join($title.lower().split())
--
def $f($title: str) -> str:
    """Turn $title into lower case words with dashes."""
    return $title.strip().lower().replace(" ", "-")
>> "Hello World"
>> "My First Post"

== parse_int to_int read_number
vars text default|value fallback|s otherwise
def $f($text: str, $default: int = 0) -> int:
    """Return $text as a number, or $default if it is not one."""
    try:
        return int($text)
    except ValueError:
        return $default
>> "42"
>> "abc"
>> "x", 5

== parse_numbers read_numbers split_numbers
vars text|line|s
def $f($text: str) -> list[int]:
    """Read the numbers in $text, which commas separate."""
    return [int(part) for part in $text.split(",")]
--
def $f($text: str) -> list[int]:
    """Read the numbers in $text, which commas separate."""
    numbers = []
    for part in $text.split(","):
        numbers.append(int(part))
    return numbers
>> "1,2,3"
>> "10,20"

== is_empty is_blank
vars text|s|value
def $f($text: str) -> bool:
    """Return True if $text has nothing but spaces."""
    return not $text.strip()
--
def $f($text: str) -> bool:
    """Return True if $text has nothing but spaces."""
    return $text.strip() == ""
>> ""
>> "a"

== caesar shift_letters encode
vars text shift|message key|word offset
def $f($text: str, $shift: int) -> str:
    """Move each letter of $text forward in the alphabet."""
    result = ""
    for char in $text:
        position = (ord(char) - ord("a") + $shift) % 26
        result += chr(ord("a") + position)
    return result
>> "abc", 1
>> "xyz", 3
'''

LISTS = r'''
== total sum_list sum_numbers add_all * 5
vars numbers|values|items|nums ; result|total_sum|s
def $f($numbers: list[int]) -> int:
    """Return the sum of $numbers."""
    return sum($numbers)
--
def $f($numbers: list[int]) -> int:
    """Add up all the $numbers."""
    $result = 0
    for number in $numbers:
        $result += number
    return $result
--
def $f($numbers: list[int]) -> int:
    """Return the sum of $numbers."""
    if not $numbers:
        return 0
    return $numbers[0] + $f($numbers[1:])
>> @
>> [1, 2, 3]
>> []

== average mean compute_average * 5
vars numbers|values|scores|nums
def $f($numbers: list[float]) -> float:
    """Return the average of $numbers."""
    return sum($numbers) / len($numbers)
--
def $f($numbers: list[float]) -> float:
    """Return the mean of $numbers, which must not be empty."""
    if not $numbers:
        raise ValueError("$numbers must not be empty")
    return sum($numbers) / len($numbers)
--
def $f($numbers: list[float]) -> float:
    """Return the average of $numbers."""
    total = 0
    for number in $numbers:
        total += number
    return total / len($numbers)
>> [1, 2, 3]
>> [4, 8]

== median middle_value
vars numbers|values|scores
def $f($numbers: list[float]) -> float:
    """Return the middle of the sorted $numbers."""
    ordered = sorted($numbers)
    middle = len(ordered) // 2
    if len(ordered) % 2 == 1:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
>> [3, 1, 2]
>> [1, 2, 3, 4]

== product multiply_all
vars numbers|values|items|nums
def $f($numbers: list[int]) -> int:
    """Multiply all the $numbers."""
    result = 1
    for number in $numbers:
        result *= number
    return result
>> [2, 3, 4]
>> [5, 5]

== find_max max_value largest maximum_of * 4
vars numbers|values|items|nums ; largest_so_far|best|highest
def $f($numbers: list[int]) -> int:
    """Return the largest of $numbers."""
    $largest_so_far = $numbers[0]
    for number in $numbers:
        if number > $largest_so_far:
            $largest_so_far = number
    return $largest_so_far
--
def $f($numbers: list[int]) -> int:
    """Return the largest of $numbers."""
    return max($numbers)
>> @
>> [3, 9, 2]

== find_min min_value smallest minimum_of * 3
vars numbers|values|items|nums ; smallest_so_far|best|lowest
def $f($numbers: list[int]) -> int:
    """Return the smallest of $numbers."""
    $smallest_so_far = $numbers[0]
    for number in $numbers:
        if number < $smallest_so_far:
            $smallest_so_far = number
    return $smallest_so_far
--
def $f($numbers: list[int]) -> int:
    """Return the smallest of $numbers."""
    return min($numbers)
>> @
>> [3, 9, 2]

== filter_even get_evens even_only filter_evens * 4
vars numbers|values|items|nums ; n|x|number
def $f($numbers: list[int]) -> list[int]:
    """Return the even $numbers."""
    return [$n for $n in $numbers if $n % 2 == 0]
--
def $f($numbers: list[int]) -> list[int]:
    """Keep the even $numbers."""
    result = []
    for $n in $numbers:
        if $n % 2 == 0:
            result.append($n)
    return result
--
def $f($numbers: list[int]) -> list[int]:
    """Keep the even $numbers."""
    return list(filter(lambda $n: $n % 2 == 0, $numbers))
>> @
>> [1, 2, 3, 4]

== filter_positive positives_only
vars numbers|values|items ; n|x|number
def $f($numbers: list[int]) -> list[int]:
    """Return the $numbers greater than zero."""
    return [$n for $n in $numbers if $n > 0]
--
def $f($numbers: list[int]) -> list[int]:
    """Return the $numbers greater than zero."""
    result = []
    for $n in $numbers:
        if $n > 0:
            result.append($n)
    return result
>> [1, -2, 3]
>> [-1, 0]

== square_all squares_of * 2
vars numbers|values|items ; n|x|number
def $f($numbers: list[int]) -> list[int]:
    """Return the square of each number."""
    return [$n * $n for $n in $numbers]
--
def $f($numbers: list[int]) -> list[int]:
    """Return the square of each number."""
    return list(map(lambda $n: $n ** 2, $numbers))
--
def $f($numbers: list[int]) -> list[int]:
    """Return the square of each number."""
    result = []
    for $n in $numbers:
        result.append($n * $n)
    return result
>> [1, 2, 3]
>> @

== double_all double_list
vars numbers|values|items ; n|x|number
def $f($numbers: list[int]) -> list[int]:
    """Return each number twice as large."""
    return [$n * 2 for $n in $numbers]
--
def $f($numbers: list[int]) -> list[int]:
    """Return each number twice as large."""
    doubled = []
    for $n in $numbers:
        doubled.append($n * 2)
    return doubled
>> [1, 2, 3]
>> @

== count_even number_of_evens
vars numbers|values|items ; n|x|number
def $f($numbers: list[int]) -> int:
    """Count the even $numbers."""
    count = 0
    for $n in $numbers:
        if $n % 2 == 0:
            count += 1
    return count
--
def $f($numbers: list[int]) -> int:
    """Count the even $numbers."""
    return sum(1 for $n in $numbers if $n % 2 == 0)
>> @

== count_item count_value
vars items target|values value|data wanted
def $f($items: list, $target) -> int:
    """Count how often $target is in $items."""
    count = 0
    for item in $items:
        if item == $target:
            count += 1
    return count
>> [1, 2, 1], 1
>> [3, 3, 3], 3

== flatten flatten_list * 3
vars lists|rows|nested ; item|value|x
def $f($lists: list[list[int]]) -> list[int]:
    """Return the items of all $lists in one list."""
    return [$item for inner in $lists for $item in inner]
--
def $f($lists: list[list[int]]) -> list[int]:
    """Return the items of all $lists in one list."""
    result = []
    for inner in $lists:
        for $item in inner:
            # Keep the order of the lists.
            result.append($item)
    return result
--
def $f($lists: list[list[int]]) -> list[int]:
    """Return the items of all $lists in one list."""
    result = []
    for inner in $lists:
        result.extend(inner)
    return result
>> [[1, 2], [3]]
>> [@, @]

== unique remove_duplicates distinct * 3
vars items|values|numbers ; result|seen
def $f($items: list) -> list:
    """Return $items without repeats, in order."""
    $result = []
    for item in $items:
        if item not in $result:
            $result.append(item)
    return $result
--
def $f($items: list) -> list:
    """Return $items without repeats, in order."""
    return list(dict.fromkeys($items))
>> [1, 2, 2, 3]
>> [5, 5, 1]

== has_duplicates contains_duplicates
vars items|values|numbers
def $f($items: list) -> bool:
    """Return True if some item appears twice."""
    return len($items) != len(set($items))
--
def $f($items: list) -> bool:
    """Return True if some item appears twice."""
    seen = set()
    for item in $items:
        if item in seen:
            return True
        seen.add(item)
    return False
>> [1, 2, 1]
>> [1, 2, 3]

== linear_search find_index index_of * 3
vars items target|values value|numbers wanted
def $f($items: list[int], $target: int) -> int:
    """Return the position of $target, or -1."""
    for i in range(len($items)):
        if $items[i] == $target:
            return i
    return -1
--
def $f($items: list[int], $target: int) -> int:
    """Return the position of $target, or -1."""
    for index, item in enumerate($items):
        if item == $target:
            return index
    return -1
>> [4, 7, 9], 7
>> [1, 2, 3], 5

== binary_search search_sorted * 3
vars items target|values value|numbers wanted ; low high|left right|start end
def $f($items: list[int], $target: int) -> int:
    """Return the position of $target in sorted $items, or -1."""
    $low = 0
    $high = len($items) - 1
    while $low <= $high:
        # Look at the middle of what is left.
        middle = ($low + $high) // 2
        if $items[middle] == $target:
            return middle
        if $items[middle] < $target:
            $low = middle + 1
        else:
            $high = middle - 1
    return -1
>> [1, 3, 5, 7], 5
>> [1, 3, 5, 7], 4

== contains is_in has_item
vars items target|values value|numbers wanted
def $f($items: list, $target) -> bool:
    """Return True if $target is one of $items."""
    for item in $items:
        if item == $target:
            return True
    return False
--
def $f($items: list, $target) -> bool:
    """Return True if $target is one of $items."""
    return $target in $items
>> [1, 2, 3], 2
>> [1, 2, 3], 5

== bubble_sort sort_numbers * 3
vars items|values|numbers|nums
def $f($items: list[int]) -> list[int]:
    """Sort $items by swapping neighbours."""
    n = len($items)
    for i in range(n):
        for j in range(n - i - 1):
            if $items[j] > $items[j + 1]:
                $items[j], $items[j + 1] = $items[j + 1], $items[j]
    return $items
>> [3, 1, 2]
>> @

== insertion_sort sort_by_insertion
vars items|values|numbers
def $f($items: list[int]) -> list[int]:
    """Sort $items by moving each one to its place."""
    for i in range(1, len($items)):
        current = $items[i]
        j = i - 1
        while j >= 0 and $items[j] > current:
            $items[j + 1] = $items[j]
            j -= 1
        $items[j + 1] = current
    return $items
>> [3, 1, 2]
>> @

== selection_sort sort_by_selection
vars items|values|numbers
def $f($items: list[int]) -> list[int]:
    """Sort $items by choosing the smallest each time."""
    for i in range(len($items)):
        smallest = i
        for j in range(i + 1, len($items)):
            if $items[j] < $items[smallest]:
                smallest = j
        $items[i], $items[smallest] = $items[smallest], $items[i]
    return $items
>> [3, 1, 2]
>> @

== quick_sort quicksort * 2
vars items|values|numbers
def $f($items: list[int]) -> list[int]:
    """Return $items in order."""
    if len($items) <= 1:
        return $items
    # Everything is compared with the first item.
    pivot = $items[0]
    smaller = [x for x in $items[1:] if x < pivot]
    larger = [x for x in $items[1:] if x >= pivot]
    return $f(smaller) + [pivot] + $f(larger)
>> [3, 1, 2]
>> @

== merge_sorted merge_lists merge
vars left right|a b|first second
def $f($left: list[int], $right: list[int]) -> list[int]:
    """Merge two sorted lists into one."""
    result = []
    i = j = 0
    while i < len($left) and j < len($right):
        if $left[i] <= $right[j]:
            result.append($left[i])
            i += 1
        else:
            result.append($right[j])
            j += 1
    # One of the lists may have some items left.
    return result + $left[i:] + $right[j:]
>> [1, 4], [2, 3]
>> [], [1]

== is_sorted in_order check_sorted
vars items|values|numbers
def $f($items: list[int]) -> bool:
    """Return True if no item is smaller than the one before."""
    for i in range(len($items) - 1):
        if $items[i] > $items[i + 1]:
            return False
    return True
--
def $f($items: list[int]) -> bool:
    """Return True if $items are in order."""
    return $items == sorted($items)
>> [1, 2, 3]
>> [3, 1, 2]

== reverse_list reversed_items * 2
vars items|values|numbers
def $f($items: list) -> list:
    """Return $items from last to first."""
    return $items[::-1]
--
def $f($items: list) -> list:
    """Return $items from last to first."""
    result = []
    for item in $items:
        result.insert(0, item)
    return result
--
def $f($items: list) -> list:
    """Return $items from last to first."""
    return list(reversed($items))
>> [1, 2, 3]
>> @

== first_item first get_first
vars items|values|numbers
def $f($items: list):
    """Return the first of $items."""
    return $items[0]
--
def $f($items: list):
    """Return the first of $items, or None."""
    if not $items:
        return None
    return $items[0]
>> @

== last_item last get_last
vars items|values|numbers
def $f($items: list):
    """Return the last of $items."""
    return $items[-1]
--
def $f($items: list):
    """Return the last of $items."""
    return $items[len($items) - 1]
>> @
>> &

== chunks split_into_chunks batches
vars items size|values length|data n
def $f($items: list, $size: int) -> list[list]:
    """Split $items into lists of $size."""
    return [$items[i : i + $size] for i in range(0, len($items), $size)]
--
def $f($items: list, $size: int) -> list[list]:
    """Split $items into lists of $size."""
    result = []
    for start in range(0, len($items), $size):
        result.append($items[start : start + $size])
    return result
>> [1, 2, 3, 4], 2
>> [1, 2, 3], 2

== rotate rotate_left
vars items n|values steps|numbers count
def $f($items: list, $n: int) -> list:
    """Move the first $n items to the end."""
    return $items[$n:] + $items[:$n]
>> [1, 2, 3, 4], 1
>> [1, 2, 3], 2

== common_items intersection shared
vars first second|a b|left right
def $f($first: list[int], $second: list[int]) -> list[int]:
    """Return the items of $first that are also in $second."""
    return [item for item in $first if item in $second]
--
def $f($first: list[int], $second: list[int]) -> list[int]:
    """Return the items of $first that are also in $second."""
    result = []
    for item in $first:
        if item in $second:
            result.append(item)
    return result
>> [1, 2, 3], [2, 3, 4]
>> [1], [2]

== pair_up zip_lists pairs
vars first second|a b|left right|keys values
def $f($first: list, $second: list) -> list[tuple]:
    """Return the items of both lists in pairs."""
    return list(zip($first, $second))
>> [1, 2], ["a", "b"]

== dot_product dot
vars a b|u v|left right
def $f($a: list[int], $b: list[int]) -> int:
    """Return the sum of the products of the pairs."""
    return sum(x * y for x, y in zip($a, $b))
--
def $f($a: list[int], $b: list[int]) -> int:
    """Return the sum of the products of the pairs."""
    result = 0
    for i in range(len($a)):
        result += $a[i] * $b[i]
    return result
>> [1, 2, 3], [4, 5, 6]
>> [1, 0], [5, 7]

== running_total cumulative_sum running_sums
vars numbers|values|amounts
def $f($numbers: list[int]) -> list[int]:
    """Return the sum up to each position."""
    result = []
    current = 0
    for number in $numbers:
        current += number
        result.append(current)
    return result
--
from itertools import accumulate
def $f($numbers: list[int]) -> list[int]:
    """Return the sum up to each position."""
    return list(accumulate($numbers))
>> [1, 2, 3]
>> @

== transpose swap_rows_and_columns
vars matrix|rows|grid
def $f($matrix: list[list[int]]) -> list[list[int]]:
    """Turn the rows of $matrix into columns."""
    return [list(row) for row in zip(*$matrix)]
--
def $f($matrix: list[list[int]]) -> list[list[int]]:
    """Turn the rows of $matrix into columns."""
    return [[row[i] for row in $matrix] for i in range(len($matrix[0]))]
>> [[1, 2], [3, 4]]
>> [[1, 2, 3]]

== identity_matrix make_identity
vars n|size
def $f($n: int) -> list[list[int]]:
    """Return a matrix with ones on the diagonal."""
    return [[1 if i == j else 0 for j in range($n)] for i in range($n)]
>> 2

== zeros make_grid empty_grid
vars rows columns|height width|n m
def $f($rows: int, $columns: int) -> list[list[int]]:
    """Return a grid filled with zeros."""
    return [[0] * $columns for _ in range($rows)]
--
def $f($rows: int, $columns: int) -> list[list[int]]:
    """Return a grid filled with zeros."""
    return [[0 for _ in range($columns)] for _ in range($rows)]
>> 2, 3

== add_matrices matrix_add
vars a b|left right|first second
def $f($a: list[list[int]], $b: list[list[int]]) -> list[list[int]]:
    """Add two matrices of the same size."""
    result = []
    for row_a, row_b in zip($a, $b):
        result.append([x + y for x, y in zip(row_a, row_b)])
    return result
>> [[1, 2]], [[3, 4]]

== sum_matrix grid_total
vars matrix|grid|rows
def $f($matrix: list[list[int]]) -> int:
    """Add all the numbers in $matrix."""
    return sum(sum(row) for row in $matrix)
--
def $f($matrix: list[list[int]]) -> int:
    """Add all the numbers in $matrix."""
    total = 0
    for row in $matrix:
        for value in row:
            total += value
    return total
>> [[1, 2], [3, 4]]

== all_positive every_positive
vars numbers|values|items
def $f($numbers: list[int]) -> bool:
    """Return True if all $numbers are greater than zero."""
    return all(n > 0 for n in $numbers)
--
def $f($numbers: list[int]) -> bool:
    """Return True if all $numbers are greater than zero."""
    for n in $numbers:
        if n <= 0:
            return False
    return True
>> [1, 2, 3]
>> [1, -1]

== print_items show_items print_list * 2
vars items|values|names
def $f($items: list) -> None:
    """Print each item on its own line."""
    for item in $items:
        print(item)
--
def $f($items: list) -> None:
    """Print each item with its number."""
    for i, item in enumerate($items, start=1):
        print(f"{i}. {item}")

== apply apply_to_all map_list
vars function items|func values|f numbers
def $f($function, $items: list) -> list:
    """Call $function with each item."""
    return [$function(item) for item in $items]
--
def $f($function, $items: list) -> list:
    """Call $function with each item."""
    result = []
    for item in $items:
        result.append($function(item))
    return result
>> abs, [-1, 2]
>> len, &
'''

DICTIONARIES_AND_CHECKS = r'''
== merge_dicts merge combine * 3
vars first second|a b|left right|d1 d2
def $f($first: dict, $second: dict) -> dict:
    """Return the entries of both dictionaries."""
    return {**$first, **$second}
--
def $f($first: dict, $second: dict) -> dict:
    """Return the entries of both dictionaries."""
    result = $first.copy()
    result.update($second)
    return result
--
def $f($first: dict, $second: dict) -> dict:
    """Return the entries of both dictionaries."""
    return $first | $second
>> {"a": 1}, {"b": 2}
>> {"x": 1}, {"x": 5}

== invert_dict swap_keys_and_values invert
vars mapping|d|data
def $f($mapping: dict) -> dict:
    """Return $mapping with keys and values swapped."""
    return {value: key for key, value in $mapping.items()}
--
def $f($mapping: dict) -> dict:
    """Return $mapping with keys and values swapped."""
    result = {}
    for key, value in $mapping.items():
        result[value] = key
    return result
>> {"a": 1, "b": 2}

== get_value lookup get_or_default
vars mapping key default|data name fallback|d k otherwise
def $f($mapping: dict, $key: str, $default=None):
    """Return the value for $key, or $default."""
    return $mapping.get($key, $default)
--
def $f($mapping: dict, $key: str, $default=None):
    """Return the value for $key, or $default."""
    if $key in $mapping:
        return $mapping[$key]
    return $default
>> {"a": 1}, "a"
>> {"a": 1}, "b", 0

== group_by_length words_by_length
vars words|names
def $f($words: list[str]) -> dict[int, list[str]]:
    """Put words of the same length together."""
    groups = {}
    for word in $words:
        groups.setdefault(len(word), []).append(word)
    return groups
--
from collections import defaultdict
def $f($words: list[str]) -> dict[int, list[str]]:
    """Put words of the same length together."""
    groups = defaultdict(list)
    for word in $words:
        groups[len(word)].append(word)
    return dict(groups)
>> ["a", "bb", "c"]

== count_items count_each tally * 2
vars items|values|names
def $f($items: list) -> dict:
    """Return how often each item appears."""
    counts = {}
    for item in $items:
        counts[item] = counts.get(item, 0) + 1
    return counts
--
from collections import Counter
def $f($items: list) -> dict:
    """Return how often each item appears."""
    return dict(Counter($items))
>> ["a", "b", "a"]
>> [1, 1, 2]

== most_common most_frequent
vars items|values|words
def $f($items: list):
    """Return the item that appears most often."""
    return max($items, key=$items.count)
--
from collections import Counter
def $f($items: list):
    """Return the item that appears most often."""
    return Counter($items).most_common(1)[0][0]
>> [1, 2, 2]
>> ["a", "b", "a"]

== word_lengths lengths
vars words|names|items
def $f($words: list[str]) -> dict[str, int]:
    """Return the length of each word."""
    return {word: len(word) for word in $words}
--
def $f($words: list[str]) -> dict[str, int]:
    """Return the length of each word."""
    result = {}
    for word in $words:
        result[word] = len(word)
    return result
>> ["cat", "house"]

== filter_by_value keep_large
vars mapping limit|scores minimum|prices threshold
def $f($mapping: dict[str, int], $limit: int) -> dict[str, int]:
    """Keep the entries of at least $limit."""
    return {key: value for key, value in $mapping.items() if value >= $limit}
>> {"a": 1, "b": 5}, 3

== best_key key_with_largest_value winner
vars scores|mapping|points
def $f($scores: dict[str, int]) -> str:
    """Return the key with the largest value."""
    return max($scores, key=$scores.get)
--
def $f($scores: dict[str, int]) -> str:
    """Return the key with the largest value."""
    best = None
    for key in $scores:
        if best is None or $scores[key] > $scores[best]:
            best = key
    return best
>> {"Anna": 3, "Tom": 5}

== total_cost cart_total sum_prices
vars prices|items|costs
def $f($prices: dict[str, int]) -> int:
    """Return the sum of all $prices."""
    return sum($prices.values())
--
def $f($prices: dict[str, int]) -> int:
    """Return the sum of all $prices."""
    total = 0
    for price in $prices.values():
        total += price
    return total
>> {"bread": 3, "milk": 2}

== parse_pairs parse_settings read_pairs
vars text|line|data
def $f($text: str) -> dict[str, str]:
    """Read text such as a=1,b=2 into a dictionary."""
    result = {}
    for part in $text.split(","):
        key, value = part.split("=")
        result[key] = value
    return result
>> "a=1,b=2"

== sort_by_age youngest_first
vars people|users|persons
def $f($people: list[dict]) -> list[dict]:
    """Return $people from the youngest to the oldest."""
    return sorted($people, key=lambda person: person["age"])

== get_names names_of
vars people|users|persons
def $f($people: list[dict]) -> list[str]:
    """Return the name of each of $people."""
    return [person["name"] for person in $people]
--
def $f($people: list[dict]) -> list[str]:
    """Return the name of each of $people."""
    names = []
    for person in $people:
        names.append(person["name"])
    return names
>> [{"name": "Anna"}, {"name": "Tom"}]

== validate_age check_age * 3
vars age|value|years
def $f($age: int) -> int:
    """Return $age if it makes sense."""
    if $age < 0:
        raise ValueError("age must not be negative")
    return $age
--
def $f($age: int) -> int:
    """Return $age if it makes sense."""
    if not isinstance($age, int):
        raise TypeError("age must be a number")
    if $age < 0 or $age > 150:
        raise ValueError(f"invalid age: {$age}")
    return $age
>> 30
>> #

== validate_name check_name * 2
vars name|value|text
def $f($name: str) -> str:
    """Return $name without spaces around it."""
    $name = $name.strip()
    if not $name:
        raise ValueError("name must not be empty")
    return $name
>> " Anna "
>> "Tom"

== check_positive require_positive ensure_positive * 2
vars n|value|number|amount
def $f($n: int) -> int:
    """Return $n, or raise an error if it is not positive."""
    if $n <= 0:
        raise ValueError("$n must be positive")
    return $n
--
def $f($n: int) -> int:
    """Return $n, or raise an error if it is not positive."""
    if $n <= 0:
        raise ValueError(f"expected a positive number, got {$n}")
    return $n
>> 5
>> 12

== is_valid_password check_password
vars password|text
def $f($password: str) -> bool:
    """Return True if $password is long and has a digit."""
    if len($password) < 8:
        return False
    return any(char.isdigit() for char in $password)
>> "abc"
>> "secret123"

== is_email valid_email
vars address|email|text
def $f($address: str) -> bool:
    """Return True if $address looks like an email address."""
    return "@" in $address and "." in $address
>> "anna@example.com"
>> "hello"
'''

FILES_AND_TOOLS = r'''
== read_file read_text load_text * 3
vars path|filename|file_path|name
def $f($path: str) -> str:
    """Return the text of a file."""
    with open($path) as file:
        return file.read()
--
def $f($path: str) -> str:
    """Return the text of a file."""
    with open($path, encoding="utf-8") as file:
        return file.read()
--
from pathlib import Path
def $f($path: str) -> str:
    """Return the text of a file."""
    return Path($path).read_text()

== read_lines load_lines get_lines * 3
vars path|filename|file_path
def $f($path: str) -> list[str]:
    """Return the lines of a file."""
    with open($path) as file:
        return file.read().splitlines()
--
def $f($path: str) -> list[str]:
    """Return the lines of a file."""
    with open($path) as file:
        return [line.strip() for line in file]
--
def $f($path: str) -> list[str]:
    """Return the lines of a file."""
    lines = []
    with open($path) as file:
        for line in file:
            lines.append(line.strip())
    return lines

== write_file save_text write_text * 2
vars path text|filename content|file_path data
def $f($path: str, $text: str) -> None:
    """Write $text to a file."""
    with open($path, "w") as file:
        file.write($text)
--
from pathlib import Path
def $f($path: str, $text: str) -> None:
    """Write $text to a file."""
    Path($path).write_text($text)

== write_lines save_lines * 3
vars path lines|filename items|file_path rows
def $f($path: str, $lines: list[str]) -> None:
    """Write each line to a file."""
    with open($path, "w") as file:
        for line in $lines:
            file.write(line + "\n")
--
def $f($path: str, $lines: list[str]) -> None:
    """Write each line to a file."""
    with open($path, "w") as file:
        file.write("\n".join($lines))

== append_line add_line log_message
vars path line|filename text|file_path message
def $f($path: str, $line: str) -> None:
    """Add a line to the end of a file."""
    with open($path, "a") as file:
        file.write($line + "\n")

== count_lines line_count
vars path|filename|file_path
def $f($path: str) -> int:
    """Return the number of lines in a file."""
    with open($path) as file:
        return sum(1 for line in file)
--
def $f($path: str) -> int:
    """Return the number of lines in a file."""
    count = 0
    with open($path) as file:
        for line in file:
            count += 1
    return count

== load_json read_json * 2
vars path|filename|file_path
import json
def $f($path: str) -> dict:
    """Read a dictionary from a JSON file."""
    with open($path) as file:
        return json.load(file)

== save_json write_json * 2
vars path data|filename value|file_path content
import json
def $f($path: str, $data: dict) -> None:
    """Write $data to a JSON file."""
    with open($path, "w") as file:
        json.dump($data, file, indent=2)

== read_csv load_rows
vars path|filename|file_path
import csv
def $f($path: str) -> list[dict]:
    """Return the rows of a CSV file."""
    with open($path) as file:
        return list(csv.DictReader(file))

== file_exists exists
vars path|filename|file_path
import os
def $f($path: str) -> bool:
    """Return True if there is such a file."""
    return os.path.exists($path)
--
from pathlib import Path
def $f($path: str) -> bool:
    """Return True if there is such a file."""
    return Path($path).exists()

== roll_dice roll_die
vars sides|n
import random
def $f($sides: int = 6) -> int:
    """Return a number from 1 to $sides."""
    return random.randint(1, $sides)

== choose pick_one random_item
vars items|values|names
import random
def $f($items: list):
    """Return one of $items at random."""
    return random.choice($items)

== ask_number read_int
vars prompt|question|message
def $f($prompt: str) -> int:
    """Ask until the answer is a number."""
    while True:
        try:
            return int(input($prompt))
        except ValueError:
            print("Please enter a number.")

== memoize cached remember
vars function|func ; cache|results|known
def $f($function):
    """Make a version of $function that remembers its results."""
    $cache = {}

    def wrapper(n):
        if n not in $cache:
            $cache[n] = $function(n)
        return $cache[n]

    return wrapper
>> $f(abs)(-3)

== make_adder adder make_add
vars n x|a b|amount value
def $f($n: int):
    """Return a function that adds $n."""

    def inner($x):
        return $x + $n

    return inner
--
def $f($n: int):
    """Return a function that adds $n."""
    return lambda $x: $x + $n
>> $f(2)(3)
>> $f(10)(5)

== timed timer measure
vars function|func
import time
def $f($function):
    """Call $function and return how many seconds it took."""
    start = time.perf_counter()
    $function()
    return time.perf_counter() - start

== retry try_again
vars function attempts|func times
def $f($function, $attempts: int = 3):
    """Call $function again if it fails."""
    for attempt in range($attempts):
        try:
            return $function()
        except ValueError:
            print(f"attempt {attempt + 1} failed")
    return None

== take first_n
vars items n|values count|iterable limit
def $f($items, $n: int):
    """Yield the first $n items."""
    for i, item in enumerate($items):
        if i >= $n:
            break
        yield item
>> list($f([1, 2, 3], 2))
>> list($f("abc", 1))

== power_of_two two_to_the
vars n|exponent
def $f($n: int) -> int:
    """Return two to the power of $n."""
    return 2 ** $n
>> 3
>> 5

== hanoi tower_of_hanoi
vars n|disks
def $f($n: int, source: str, target: str, spare: str) -> int:
    """Move $n disks and return the number of moves."""
    if $n == 0:
        return 0
    moves = $f($n - 1, source, spare, target)
    moves += 1
    moves += $f($n - 1, spare, target, source)
    return moves
>> 3, "A", "C", "B"
'''

CLASSES = r'''
== Stack * 4
vars items|values|data ; item|value|element
class $f:
    """The last item put in is the first to come out."""

    def __init__(self) -> None:
        self.$items = []

    def push(self, $item: int) -> None:
        self.$items.append($item)

    def pop(self) -> int:
        return self.$items.pop()

    def is_empty(self) -> bool:
        return len(self.$items) == 0
--
class $f:
    """The last item put in is the first to come out."""

    def __init__(self) -> None:
        self.$items = []

    def push(self, $item: int) -> None:
        """Put $item on top."""
        self.$items.append($item)

    def pop(self) -> int:
        """Take the top away and return it."""
        if not self.$items:
            raise IndexError("pop from an empty stack")
        return self.$items.pop()

    def is_empty(self) -> bool:
        """Return True if nothing is left."""
        return not self.$items
>! stack = $f()
>! stack.push(1)
>! stack.push(#)
>> stack.pop()
>> stack.is_empty()

== Queue * 3
vars items|values|data ; item|value|element
class $f:
    """The first item put in is the first to come out."""

    def __init__(self) -> None:
        self.$items = []

    def enqueue(self, $item: int) -> None:
        self.$items.append($item)

    def dequeue(self) -> int:
        return self.$items.pop(0)

    def __len__(self) -> int:
        return len(self.$items)
--
from collections import deque
class $f:
    """The first item put in is the first to come out."""

    def __init__(self) -> None:
        self.$items = deque()

    def enqueue(self, $item: int) -> None:
        self.$items.append($item)

    def dequeue(self) -> int:
        return self.$items.popleft()

    def __len__(self) -> int:
        return len(self.$items)
>! queue = $f()
>! queue.enqueue(#)
>! queue.enqueue(5)
>> queue.dequeue()
>> len(queue)

== Point Vector * 4
vars x y
import math
class $f:
    """A place in the plane."""

    def __init__(self, x: float, y: float) -> None:
        self.x = x
        self.y = y

    def length(self) -> float:
        """Return the distance from the origin."""
        return math.sqrt(self.x ** 2 + self.y ** 2)
--
from dataclasses import dataclass
@dataclass
class $f:
    """A place in the plane."""

    x: float
    y: float

    def length(self) -> float:
        """Return the distance from the origin."""
        return (self.x ** 2 + self.y ** 2) ** 0.5
>! p = $f(3, 4)
>> p.x
>> p.length()

== Vector2 Vector2D Pair
vars x y
class $f:
    """Two numbers that can be added to two others."""

    def __init__(self, x: int, y: int) -> None:
        self.x = x
        self.y = y

    def __add__(self, other: "$f") -> "$f":
        return $f(self.x + other.x, self.y + other.y)

    def __eq__(self, other: object) -> bool:
        return self.x == other.x and self.y == other.y

    def __repr__(self) -> str:
        return f"$f({self.x}, {self.y})"
>> $f(1, 2) + $f(3, 4) == $f(4, 6)
>> repr($f(1, 2))

== Account BankAccount * 4
vars owner|name ; amount|value|money
class $f:
    """Money that belongs to someone."""

    def __init__(self, $owner: str, balance: int = 0) -> None:
        self.$owner = $owner
        self.balance = balance

    def deposit(self, $amount: int) -> None:
        """Add $amount to the balance."""
        self.balance += $amount

    def withdraw(self, $amount: int) -> None:
        """Take $amount from the balance."""
        if $amount > self.balance:
            raise ValueError("not enough money")
        self.balance -= $amount
--
class $f:
    """Money that belongs to someone."""

    def __init__(self, $owner: str, balance: int = 0) -> None:
        self.$owner = $owner
        self.balance = balance

    def deposit(self, $amount: int) -> int:
        if $amount <= 0:
            raise ValueError("amount must be positive")
        self.balance += $amount
        return self.balance

    def withdraw(self, $amount: int) -> int:
        if $amount > self.balance:
            raise ValueError("insufficient funds")
        self.balance -= $amount
        return self.balance
>! account = $f("Anna", 100)
>! account.deposit(50)
>> account.balance
>! account.withdraw(30)
>> account.balance

== Counter Clicker * 4
vars count|value|total
class $f:
    """Counts up by one."""

    def __init__(self) -> None:
        self.$count = 0

    def increment(self) -> None:
        self.$count += 1

    def reset(self) -> None:
        self.$count = 0
--
class $f:
    """Counts up and down."""

    def __init__(self, start: int = 0) -> None:
        self.$count = start

    def increment(self) -> None:
        """Add one."""
        self.$count += 1

    def decrement(self) -> None:
        """Take one away."""
        self.$count -= 1
>! counter = $f()
>! counter.increment()
>! counter.increment()
>> counter.$count

== Rectangle * 3
vars width height|length width|a b
class $f:
    """A shape with four sides."""

    def __init__(self, $width: float, $height: float) -> None:
        self.$width = $width
        self.$height = $height

    def area(self) -> float:
        return self.$width * self.$height

    def perimeter(self) -> float:
        return 2 * (self.$width + self.$height)
--
from dataclasses import dataclass
@dataclass
class $f:
    """A shape with four sides."""

    $width: float
    $height: float

    def area(self) -> float:
        return self.$width * self.$height

    def perimeter(self) -> float:
        return 2 * (self.$width + self.$height)
>! shape = $f(3, 4)
>> shape.area()
>> shape.perimeter()

== Circle * 2
vars radius|r
import math
class $f:
    """A round shape."""

    def __init__(self, $radius: float) -> None:
        self.$radius = $radius

    def area(self) -> float:
        return math.pi * self.$radius ** 2

    def diameter(self) -> float:
        return 2 * self.$radius
>! circle = $f(2)
>> circle.diameter()

== Person User Student * 4
vars name age
class $f:
    """Someone with a name and an age."""

    def __init__(self, name: str, age: int) -> None:
        self.name = name
        self.age = age

    def greet(self) -> str:
        return f"Hello, my name is {self.name}."
--
class $f:
    """Someone with a name and an age."""

    def __init__(self, name: str, age: int) -> None:
        self.name = name
        self.age = age

    def greet(self) -> str:
        """Return a short greeting."""
        return f"Hello, my name is {self.name}."

    def is_adult(self) -> bool:
        """Return True from the age of 18."""
        return self.age >= 18

    def __str__(self) -> str:
        return f"{self.name} ({self.age})"
>! anna = $f("Anna", 30)
>> anna.name
>> anna.greet()

== Animal Pet * 2
vars name|title
class $f:
    def __init__(self, $name: str) -> None:
        self.$name = $name

    def speak(self) -> str:
        return "..."


class Dog($f):
    def speak(self) -> str:
        return f"{self.$name} says woof"


class Cat($f):
    def speak(self) -> str:
        return f"{self.$name} says meow"
>> Dog("Rex").speak()
>> Cat("Tom").speak()

== Temperature
vars celsius|degrees
class $f:
    """A temperature that knows both scales."""

    def __init__(self, $celsius: float) -> None:
        self.$celsius = $celsius

    @property
    def fahrenheit(self) -> float:
        return self.$celsius * 9 / 5 + 32
>> $f(100).fahrenheit
>> $f(0).fahrenheit

== ShoppingCart Cart Basket * 2
vars items|prices ; name price|item cost
class $f:
    """Things to buy, with their prices."""

    def __init__(self) -> None:
        self.$items = {}

    def add(self, $name: str, $price: int) -> None:
        self.$items[$name] = $price

    def remove(self, $name: str) -> None:
        del self.$items[$name]

    def total(self) -> int:
        return sum(self.$items.values())
>! cart = $f()
>! cart.add("bread", #)
>! cart.add("milk", 2)
>> cart.total()

== TodoList TaskList
vars tasks|items|entries ; task|title|text
class $f:
    """A list of things to do."""

    def __init__(self) -> None:
        self.$tasks = []

    def add(self, $task: str) -> None:
        self.$tasks.append($task)

    def finish(self, $task: str) -> None:
        self.$tasks.remove($task)

    def __len__(self) -> int:
        return len(self.$tasks)
>! todo = $f()
>! todo.add("read")
>! todo.add("write")
>! todo.finish("read")
>> len(todo)

== Node ListNode
vars value|data
class $f:
    """One link of a linked list."""

    def __init__(self, $value: int, next=None) -> None:
        self.$value = $value
        self.next = next


def to_list(node):
    """Return the values of a linked list."""
    values = []
    while node is not None:
        values.append(node.$value)
        node = node.next
    return values
>> to_list($f(1, $f(2, $f(3))))

== Dice Die
vars sides|faces
import random
class $f:
    """A die that can be rolled."""

    def __init__(self, $sides: int = 6) -> None:
        self.$sides = $sides

    def roll(self) -> int:
        return random.randint(1, self.$sides)
>> $f().$sides

== Countdown CountDown
vars start|first
class $f:
    """Counts down to one in a for loop."""

    def __init__(self, $start: int) -> None:
        self.$start = $start

    def __iter__(self):
        for n in range(self.$start, 0, -1):
            yield n
>> list($f(3))

== InvalidAmount NegativeNumberError
vars amount|value
class $f(ValueError):
    pass


def check_amount($amount: int) -> int:
    """Return $amount if it is allowed."""
    if $amount < 0:
        raise $f(f"not allowed: {$amount}")
    return $amount
>> check_amount(5)

== Inventory Stock Store
vars items|counts ; name amount|item quantity
class $f:
    """How many there are of each thing."""

    def __init__(self) -> None:
        self.$items = {}

    def add(self, $name: str, $amount: int = 1) -> None:
        self.$items[$name] = self.$items.get($name, 0) + $amount

    def count(self, $name: str) -> int:
        return self.$items.get($name, 0)
>! store = $f()
>! store.add("apple", 3)
>! store.add("apple")
>> store.count("apple")
>> store.count("pear")

== Calculator * 3
vars a b|x y|first second
class $f:
    """The four operations."""

    def add(self, $a: int, $b: int) -> int:
        return $a + $b

    def subtract(self, $a: int, $b: int) -> int:
        return $a - $b

    def multiply(self, $a: int, $b: int) -> int:
        return $a * $b

    def divide(self, $a: int, $b: int) -> float:
        if $b == 0:
            raise ValueError("cannot divide by zero")
        return $a / $b
>! calculator = $f()
>> calculator.add(2, 3)
>> calculator.multiply(4, 5)

== Color Shade
vars RED GREEN|BLUE YELLOW|BLACK WHITE
from enum import Enum
class $f(Enum):
    $RED = 1
    $GREEN = 2
>> $f.$RED.value
>> $f(2).name
'''


@dataclass(frozen=True)
class Call:
    """A line after a function: an expression to check, or what it needs first."""

    text: str
    is_setup: bool
    is_complete: bool
    """False where `text` is only the arguments of a call."""


@dataclass(frozen=True)
class Example:
    """A call that was run; `value` is what it returned, None for a setup."""

    text: str
    is_setup: bool
    value: object


@dataclass(frozen=True)
class Kind:
    """One kind of function or class, with the ways to write it."""

    names: list[str]
    weight: int
    renamings: list[list[list[str]]]
    sources: list[str]
    calls: list[Call]


@dataclass(frozen=True)
class Style:
    """What stays the same throughout one document."""

    type_hints: bool
    docstrings: bool
    comments: bool
    single_quotes: bool


@dataclass(frozen=True)
class Piece:
    """One kind written out: imports apart, since they go to the top."""

    name: str
    imports: list[str]
    code: str
    calls: list[Call]


def _parse_kind(block: str) -> Kind:
    """Read one `==` block of the format that the module's docstring explains."""
    header, variables, *body = block.strip("\n").split("\n")
    names, _, weight = header.partition(" * ")
    groups = variables.removeprefix("vars ").split(" ; ")
    is_class = names[0].isupper()
    calls = [
        Call(line[3:], line.startswith(">!"), is_class or "$f" in line)
        for line in body
        if line.startswith(CALL_MARKS)
    ]
    source_lines = [line for line in body if not line.startswith(CALL_MARKS)]
    return Kind(
        names=names.split(),
        weight=int(weight or 1),
        renamings=[[option.split() for option in group.split("|")] for group in groups],
        sources=[text.strip("\n") for text in "\n".join(source_lines).split("\n--\n")],
        calls=calls,
    )


def _parse_kinds(*sections: str) -> list[Kind]:
    return [
        _parse_kind(block)
        for section in sections
        for block in ("\n" + section).split("\n== ")[1:]
    ]


KINDS = _parse_kinds(
    NUMBERS, STRINGS, LISTS, DICTIONARIES_AND_CHECKS, FILES_AND_TOOLS, CLASSES
)
_WEIGHTS = [kind.weight for kind in KINDS]
KIND_BY_NAME = {kind.names[0]: kind for kind in reversed(KINDS)}

_HINT = r"""
    :\ "?\w+
    (?:\[(?:[^\[\]]|\[[^\[\]]*\])*\])?  # what a list or dictionary holds
    "?
"""
_PARAMETER_HINT = re.compile(_HINT + r"(?=,|\)|\ =)", re.VERBOSE)
_RETURN_HINT = re.compile(r" -> .*:$")
_DOUBLE_QUOTED = re.compile(r'(?<!")"([^"\'\n]*)"(?!")')
_DOCSTRING_LINE = re.compile(r'^ *""".*"""\n(?:\n(?= ))?', re.MULTILINE)
_DEFINED_NAME = re.compile(r"^(?:def|class) (\w+)", re.MULTILINE)
_SUMMARY = re.compile(r'.*\n *"""(.*)"""\n')
"""The docstring of a piece that begins with its `def` or `class`."""
_COMMENT_LINE = re.compile(r"^ *# .*\n", re.MULTILINE)


def _prefer_first(rng: random.Random, options: list[Any]) -> Any:
    """Choose the first option often, the others equally often."""
    if len(options) == 1 or rng.random() < FIRST_CHOICE_SHARE:
        return options[0]
    return rng.choice(options[1:])


def _choose_style(rng: random.Random) -> Style:
    return Style(
        type_hints=rng.random() < TYPE_HINTS_SHARE,
        docstrings=rng.random() < DOCSTRINGS_SHARE,
        comments=rng.random() < COMMENTS_SHARE,
        single_quotes=rng.random() < SINGLE_QUOTES_SHARE,
    )


def _choose_names(
    rng: random.Random, kind: Kind, preferred: list[str] | None = None
) -> dict[str, str]:
    """Choose a name for each placeholder, the same name never for two."""
    chosen = {"f": _prefer_first(rng, kind.names)}
    for options in kind.renamings:
        taken = chosen.values()
        free = [o for o in options if not any(name in taken for name in o)]
        renaming = preferred if preferred in free else _prefer_first(rng, free)
        chosen.update(zip(options[0], renaming))
    return chosen


def _without_hints(code: str) -> str:
    """Take the type hints out of the `def` lines of `code`."""
    lines = code.split("\n")
    for i, line in enumerate(lines):
        if line.lstrip().startswith("def "):
            line = _RETURN_HINT.sub(":", line)
            line = _PARAMETER_HINT.sub("", line)
            lines[i] = line.replace(" = ", "=")
    return "\n".join(lines)


def _apply_style(code: str, style: Style) -> str:
    if not style.type_hints:
        code = _without_hints(code)
    if not style.comments:
        code = _COMMENT_LINE.sub("", code)
    if style.docstrings:
        return code
    without = _DOCSTRING_LINE.sub("", code)
    summary = _SUMMARY.match(code)
    return f"# {summary[1]}\n{without}" if style.comments and summary else without


def _literals(rng: random.Random, text: str) -> str:
    """Replace the signs for random values in a call."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "#":
            return str(rng.randint(1, LARGEST_NUMBER))
        if match[0] == "@":
            length = rng.randint(*LIST_LENGTH)
            return str([rng.randint(0, LARGEST_NUMBER) for _ in range(length)])
        if match[0] == "%":
            return _quoted(rng.choice(WORDS))
        return _quoted(rng.sample(WORDS, 3))

    return re.sub(r'(?<![\w"])[#@%&]', value, text)


def _quoted(value: object) -> str:
    """Write `value` as Python would, but with double quotes."""
    text = repr(value)
    return text if '"' in text else text.replace("'", '"')


def _write_call(rng: random.Random, call: Call, names: dict[str, str]) -> Call:
    text = call.text
    if not call.is_complete:
        text = f"$f({text})"
    return replace(call, text=Template(_literals(rng, text)).substitute(names))


def _choose_calls(rng: random.Random, kind: Kind) -> list[Call]:
    """Choose some of the calls, or all of them where one may need another."""
    if any(call.is_setup for call in kind.calls):
        return kind.calls
    count = min(len(kind.calls), rng.randint(1, CALLS_PER_FUNCTION))
    return rng.sample(kind.calls, count)


def _write_piece(
    rng: random.Random, kind: Kind, style: Style, preferred: list[str] | None = None
) -> Piece:
    names = _choose_names(rng, kind, preferred)
    source = Template(_prefer_first(rng, kind.sources)).substitute(names)
    lines = source.split("\n")
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    calls = [_write_call(rng, call, names) for call in _choose_calls(rng, kind)]
    code = _apply_style("\n".join(lines[len(imports) :]), style)
    return Piece(names["f"], imports, code, calls)


def _imported_names(piece: Piece) -> list[str]:
    return [line.split()[-1] for line in piece.imports]


def _choose_pieces(rng: random.Random, style: Style) -> list[Piece]:
    """Choose what is in one document, no global name meaning two things."""
    if rng.random() < CALCULATOR_SHARE:
        operands = _prefer_first(rng, KIND_BY_NAME["add"].renamings[0])
        kinds = [KIND_BY_NAME[name] for name in CALCULATOR]
        return [_write_piece(rng, kind, style, operands) for kind in kinds]
    count = rng.randint(*FUNCTIONS_PER_DOCUMENT)
    pieces: list[Piece] = []
    imported: list[str] = []
    defined: list[str] = []
    while len(pieces) < count:
        (kind,) = rng.choices(KINDS, _WEIGHTS)
        piece = _write_piece(rng, kind, style)
        imports = _imported_names(piece)
        definitions = _DEFINED_NAME.findall(piece.code)
        if any(name in defined for name in imports + definitions):
            continue
        if any(name in imported for name in definitions):
            continue
        pieces.append(piece)
        imported += imports
        # A second way to write the same kind would look like a mistake.
        defined += definitions + kind.names
    return pieces


def _is_readable(example: Example) -> bool:
    """Tell whether a reader could check the value, unlike 5.600000000000001."""
    short = len(example.text) + len(repr(example.value)) < LONGEST_LINE - 16
    return short and not (
        isinstance(example.value, float) and round(example.value, 2) != example.value
    )


def _run_calls(pieces: list[Piece]) -> list[list[Example]]:
    """Run the generated code to learn what each of its calls returns."""
    namespace: dict[str, Any] = {"__name__": "generated"}
    examples: list[list[Example]] = []
    for piece in pieces:
        examples.append([])
        if not piece.calls:
            continue
        exec("\n".join([*piece.imports, piece.code]), namespace)
        for call in piece.calls:
            value = None
            if call.is_setup:
                exec(call.text, namespace)
            else:
                value = eval(call.text, namespace)
            example = Example(call.text, call.is_setup, value)
            if _is_readable(example):
                examples[-1].append(example)
    return examples


def _assertion(example: Example) -> str:
    if example.is_setup:
        return example.text
    if example.value is True:
        return f"assert {example.text}"
    if example.value is False:
        return f"assert not {example.text}"
    if example.value is None:
        return f"assert {example.text} is None"
    return f"assert {example.text} == {_quoted(example.value)}"


def _print_line(example: Example, with_value: bool) -> str:
    if example.is_setup:
        return example.text
    comment = f"  # {example.value}" if with_value else ""
    return f"print({example.text}){comment}"


def _indented(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _test_functions(pieces: list[Piece], examples: list[list[Example]]) -> list[str]:
    return [
        f"def test_{_snake_case(piece.name)}():\n"
        + _indented([_assertion(example) for example in shown])
        for piece, shown in zip(pieces, examples)
        if shown
    ]


def _main_block(rng: random.Random, lines: list[str]) -> list[str]:
    guard = 'if __name__ == "__main__":\n'
    if rng.random() < MAIN_FUNCTION_SHARE:
        return ["def main():\n" + _indented(lines), guard + _indented(["main()"])]
    return [guard + _indented(lines)]


def _ending(rng: random.Random, pieces: list[Piece], style: Style) -> list[str]:
    """Return the blocks that test or show the functions, often none."""
    (ending,) = rng.choices([name for name, _ in ENDINGS], [w for _, w in ENDINGS])
    if ending == "none":
        return []
    examples = _run_calls(pieces)
    shown = [example for group in examples for example in group]
    if not shown:
        return []
    if ending == "tests":
        return _test_functions(pieces, examples)
    if ending == "asserts":
        return ["\n".join(map(_assertion, shown))]
    lines = [_print_line(example, style.comments) for example in shown]
    return _main_block(rng, lines) if ending == "main" else ["\n".join(lines)]


def _import_block(pieces: list[Piece]) -> list[str]:
    """Return the imports in the usual order: whole modules first."""
    imports = {line for piece in pieces for line in piece.imports}
    lines = sorted(imports, key=lambda line: (line.startswith("from"), line))
    return ["\n".join(lines)] if lines else []


def document(rng: random.Random) -> str:
    """Return one document; the same state of `rng` gives the same text."""
    style = _choose_style(rng)
    pieces = _choose_pieces(rng, style)
    head = _import_block(pieces)
    if style.docstrings and rng.random() < MODULE_DOCSTRING_SHARE:
        head.insert(0, f'"""{rng.choice(MODULE_DOCSTRINGS)}"""')
    blocks = [piece.code.strip("\n") for piece in pieces]
    blocks += _ending(rng, pieces, style)
    text = "\n\n\n".join(["\n\n".join(head)] * bool(head) + blocks)
    return _DOUBLE_QUOTED.sub(r"'\1'", text) if style.single_quotes else text
