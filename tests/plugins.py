"""Installed packages and modules with own parts, made in a folder."""

from pathlib import Path

TOP = '''"""An adapter: the last blocks alone train."""

from gpt2core.adapters import ADAPTERS, Adapter
from gpt2core.component import Keys, key


class TopKeys(Keys):
    top_blocks: int = key(1, "how many of the last blocks train", ge=1)


def top(model, config):
    """Train the last blocks; nothing else."""
    model.requires_grad_(False)
    for block in model.blocks[-config.part(TopKeys).top_blocks :]:
        block.requires_grad_(True)


TOP = Adapter(apply=top, keys=TopKeys, meaning="the last blocks train")
'''


def install(site: Path, package: str, code: str, entry_points: str) -> Path:
    """Write a package as pip would install it into `site`: a module of its name and its metadata. Return `site`."""
    info = site / f"{package}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(entry_points)
    (site / f"{package}.py").write_text(code)
    return site
