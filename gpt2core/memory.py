"""GPU memory that a run takes, predicted."""

FORMULA = "4 * total + 12 * trainable bytes + 0.25 GB"


def predicted_gpu_memory_gb(total: int, trainable: int) -> float:
    """Weights in float32 (4 bytes each), and for what trains a gradient and AdamW's two moments (12), in gigabytes.

    The quarter of a gigabyte is what the study's table has beside them; activations of larger batches come on top.
    """
    return (4 * total + 12 * trainable) / 1e9 + 0.25
