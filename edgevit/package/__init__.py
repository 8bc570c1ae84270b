"""Projects that run an artifact without TVM: for Xcode and Swift's package manager."""
