"""Names of metrics and keys as text for people."""

#: Parts of names -> how they are written in text.
SPELLED = {"chrf": "chrF", "f1": "F1", "gb": "GB", "gpu": "GPU", "l": "L", "rouge": "ROUGE"}


def words(name: str) -> str:
    """Return the name of a metric or key in words, such as `chrF continuation`."""
    return " ".join(SPELLED.get(part, part) for part in name.split("_"))
