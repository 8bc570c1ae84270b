import Foundation

/// What `plan.json` says: buffers, launches, and what the app has to know of the model.
public struct Plan: Decodable, Sendable {
    /// Where a tensor lies.
    public struct Place: Decodable, Sendable {
        public enum Buffer: String, Decodable, Sendable {
            case input
            case weights
            case storage
        }

        public let buffer: Buffer
        public let index: Int
        public let offset: Int
        public let bytes: Int
    }

    /// An input or output of the model.
    public struct TensorPlan: Decodable, Sendable {
        public let name: String
        public let shape: [Int]
        public let dtype: String
        public let place: Place
    }

    /// One dispatch.
    public struct Launch: Decodable, Sendable {
        public let kernel: String
        public let grid: [Int]
        public let block: [Int]
        public let buffers: [Place]
    }

    /// What the kernels were compiled for.
    public struct Limits: Decodable, Sendable {
        public let maxThreads: Int
        public let localBytes: Int
        public let simd: Int
    }

    /// Bytes of a file.
    public struct Stretch: Decodable, Sendable {
        public let offset: Int
        public let bytes: Int
    }

    /// The comparison that the device makes itself.
    public struct Check: Decodable, Sendable {
        public let reference: String
        public let seed: Int
        public let tolerance: Double
        public let inputs: [Stretch]
        public let outputs: [Stretch]
    }

    /// Sides that a picture is resized to.
    public enum Resize: Decodable, Sendable {
        /// The short side; proportions stay.
        case shortSide(Int)
        /// Both sides; proportions do not stay.
        case exactly(height: Int, width: Int)

        public init(from decoder: Decoder) throws {
            let container = try decoder.singleValueContainer()
            if let side = try? container.decode(Int.self) {
                self = .shortSide(side)
                return
            }
            let sides = try container.decode([Int].self)
            guard sides.count == 2 else {
                throw DecodingError.dataCorruptedError(in: container, debugDescription: "two sides expected")
            }
            self = .exactly(height: sides[0], width: sides[1])
        }
    }

    /// How a picture becomes the input: resized, cropped, then `(pixel * scale - mean) / std`.
    public struct Preprocessing: Decodable, Sendable {
        public let resize: Resize?
        public let crop: Int?
        public let channelOrder: String
        public let scale: Double
        public let mean: [Double]
        public let std: [Double]
        public let interpolation: String
    }

    public let format: Int
    public let model: String
    public let artifact: String
    public let target: String
    public let precision: String
    public let language: String
    public let limits: Limits
    public let usesSimd: Bool
    public let weightsBytes: Int
    public let storages: [Int]
    public let inputs: [TensorPlan]
    public let outputs: [TensorPlan]
    public let launches: [Launch]
    public let task: String?
    public let labels: [String]?
    public let preprocessing: Preprocessing?
    public let imageInput: Int?
    public let check: Check

    /// The format that this code reads.
    static let knownFormat = 1

    /// Reads `plan.json`.
    public init(contentsOf url: URL) throws {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        do {
            self = try decoder.decode(Plan.self, from: try Data(contentsOf: url))
        } catch {
            throw EdgevitError.damaged("plan.json: \(error)")
        }
        guard format == Plan.knownFormat else {
            throw EdgevitError.damaged("plan.json has format \(format), this code reads \(Plan.knownFormat)")
        }
    }
}
