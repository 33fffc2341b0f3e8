"""An artifact's parts one after the other, by the reference: for machines that are no Apple device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vgcomp.backends.coreml.artifact import Manifest, PartSpec, read_manifest
from vgcomp.backends.coreml.package import read_package
from vgcomp.backends.coreml.reference import Reference
from vgcomp.errors import UsageError

_DTYPES = {"float16": torch.float16, "float32": torch.float32, "int32": torch.int32, "bool": torch.bool}


class Interpreted:
    """A Core ML artifact, computed op by op on this machine. Slow: it is for comparing, not for use.

    Raises ModelError for a folder that is damaged or that the reference cannot compute.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name. Inputs are brought to the packages' element types; raises UsageError for other shapes."""
        known = {spec.name for spec in self.manifest.inputs}
        other = next((name for name in inputs if name not in known), None)
        if other is not None:
            raise UsageError(f"there is no input {other!r}; the inputs are {', '.join(sorted(known))}")
        values = dict(inputs)
        last = self._last_uses()
        for k, part in enumerate(self.manifest.parts):
            values.update(self._run_part(part, values))
            for name in [name for name in values if last.get(name, -1) == k]:
                del values[name]
        return {spec.name: values[spec.name] for spec in self.manifest.outputs}

    def _run_part(self, part: PartSpec, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # One part's weights at a time.
        reference = Reference(read_package(self.folder / part.package))
        given = {}
        for item in part.inputs:
            if item.value not in values:
                raise UsageError(f"input {item.value!r} is missing")
            value = values[item.value]
            value = value.reshape(item.shape) if value.dim() == 0 else value
            given[item.feature] = value.to(_DTYPES[item.dtype])
        found = reference.run(given)
        return {item.value: found[item.feature] for item in part.outputs}

    def _last_uses(self) -> dict[str, int]:
        """The last part that reads each value; the outputs are kept."""
        kept = {spec.name for spec in self.manifest.outputs}
        uses = {item.value: k for k, part in enumerate(self.manifest.parts) for item in part.inputs}
        return {name: k for name, k in uses.items() if name not in kept}
