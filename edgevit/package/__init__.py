"""Projects that run an artifact without TVM: an Xcode project for iOS, a Swift package for macOS."""

from edgevit.package.project import SYSTEMS, System
from edgevit.package.write import Packaged, package_artifact, parse_system, refuse_occupied, refuse_unfit

__all__ = ["SYSTEMS", "Packaged", "System", "package_artifact", "parse_system", "refuse_occupied", "refuse_unfit"]
