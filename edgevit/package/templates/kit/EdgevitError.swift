import Foundation

/// Why a model cannot be loaded or run.
public enum EdgevitError: LocalizedError {
    /// There is no GPU that Metal knows.
    case noDevice
    /// A file of the model's folder is missing or not what it should be.
    case damaged(String)
    /// Metal refuses a kernel.
    case kernel(name: String, reason: String)
    /// The device has less than the kernels were compiled for.
    case limit(String)
    /// An input is missing, or has another shape or type than the model takes.
    case input(String)
    /// Commands could not be made or failed.
    case gpu(String)

    public var errorDescription: String? {
        switch self {
        case .noDevice:
            return "Metal finds no GPU on this device."
        case .damaged(let what):
            return "The model's files are damaged: \(what)."
        case .kernel(let name, let reason):
            return "Metal refuses the kernel \(name): \(reason)"
        case .limit(let what):
            return "This GPU cannot run the model: \(what)."
        case .input(let what):
            return "The input does not fit the model: \(what)."
        case .gpu(let what):
            return "The GPU failed: \(what)."
        }
    }
}
