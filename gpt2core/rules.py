"""The rules that values break, in our words: pydantic's own are those of a programmer."""

from typing import Any

#: Kind of a pydantic error -> the rule; `{bound}` is the last word of pydantic's message, the other names are in its context.
RULES = {
    **dict.fromkeys(("bool_parsing", "bool_type"), "be true or false"),
    **dict.fromkeys(("int_parsing", "int_parsing_size", "int_from_float", "int_type"), "be a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "be a number"),
    "finite_number": "be a finite number",
    "greater_than": "be > {bound}",
    "greater_than_equal": "be >= {bound}",
    "less_than": "be < {bound}",
    "less_than_equal": "be <= {bound}",
    "literal_error": "be {expected}",
    "string_type": "be text",
    "string_too_short": "have {min_length} or more characters",
    "string_too_long": "have at most {max_length} characters",
    "string_pattern_mismatch": "match the pattern {pattern}",
    "too_short": "have {min_length} or more entries",
    "dict_type": "be keys with their values",
    **dict.fromkeys(("list_type", "tuple_type", "is_instance_of", "sequence_str"), "be a list"),
}


def rule_of(problem: Any) -> str:
    """Return the rule that a value breaks, such as `be >= 1`, from an entry of `ValidationError.errors()`."""
    rule = RULES.get(problem["type"], "be {bound}")
    message = problem["msg"].removeprefix("Value error, ")
    bound = message.rpartition(" ")[2] if problem["type"] in RULES else message
    return rule.format(bound=bound, **problem.get("ctx", {}))
