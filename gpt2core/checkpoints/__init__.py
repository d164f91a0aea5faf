"""Checkpoints of a run: trainable weights and optimizer state as safetensors, in one folder per epoch, written atomically.

The last two epochs are kept, so a damaged checkpoint costs one epoch, not the run. With a `saving.Pace`, not all epochs have
optimizer state; the last two that have are kept too, and a resumed run trains the epochs after them again.

`best` links to the weights of the best epoch. Its files are replaced one by one, each atomically, and the weights record their
epoch, so no kill can lose the best weights: `resuming.resume` repairs `best`. Files are replaced, never changed in place, so a
link keeps its content.

If the machine is about to be taken away, the unfinished epoch is saved in `part`, which the end of the epoch removes.

`layout` names the files, `saving` writes them, `reading` reads and checks them; `best` and `resuming` use these.
"""
