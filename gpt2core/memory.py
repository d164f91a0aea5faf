"""Memory that a run takes: of a GPU, predicted; of its process, measured."""

import resource

FORMULA = "4 * total + 12 * trainable bytes + 0.25 GB"


def predicted_gpu_memory_gb(total: int, trainable: int) -> float:
    """Weights in float32 (4 bytes each), and for what trains a gradient and AdamW's two moments (12), in gigabytes.

    The quarter of a gigabyte is what the study's table has beside them; activations of larger batches come on top.
    """
    return (4 * total + 12 * trainable) / 1e9 + 0.25


def process_memory_gb() -> float:
    """The most memory that this process has held so far, in gigabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
