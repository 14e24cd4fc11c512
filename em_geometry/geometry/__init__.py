"""The geometry of steering vectors: methods, the battery, and what its numbers can tell."""

from em_geometry.geometry.battery import Battery, battery
from em_geometry.geometry.calibration import Calibration, calibrate

__all__ = ["Battery", "Calibration", "battery", "calibrate"]
