"""A trained model as one file that runs without this program: .onnx for ONNX Runtime, .pt2 for PyTorch.

The file takes frames as they are decoded, gives probabilities, and holds a JSON document that says what both mean
(export/document.py). `export_model` writes it, and compares it with the model before it is there; `load_exported` runs
it.
"""

from __future__ import annotations

from wildstream.export.document import ExportDocument
from wildstream.export.loading import ExportedModel, load_exported
from wildstream.export.writing import ExportReport, export_model

__all__ = ["ExportDocument", "ExportReport", "ExportedModel", "export_model", "load_exported"]
