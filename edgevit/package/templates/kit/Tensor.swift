import Foundation

/// Numbers in a row-major shape, little-endian, with numpy's name of their type.
public struct Tensor: Sendable {
    public let shape: [Int]
    public let dtype: String
    public let data: Data

    public init(shape: [Int], dtype: String, data: Data) {
        self.shape = shape
        self.dtype = dtype
        self.data = data
    }

    public init(shape: [Int], floats: [Float]) {
        self.init(shape: shape, dtype: "float32", data: floats.withUnsafeBufferPointer { Data(buffer: $0) })
    }

    /// All values as doubles.
    public func values() throws -> [Double] {
        switch dtype {
        case "float32":
            return read(Float.self) { Double($0) }
        case "float64":
            return read(Double.self) { $0 }
        case "float16":
            return read(UInt16.self, halfToDouble)
        case "int8":
            return read(Int8.self) { Double($0) }
        case "uint8", "bool":
            return read(UInt8.self) { Double($0) }
        case "int16":
            return read(Int16.self) { Double($0) }
        case "uint16":
            return read(UInt16.self) { Double($0) }
        case "int32":
            return read(Int32.self) { Double($0) }
        case "uint32":
            return read(UInt32.self) { Double($0) }
        case "int64":
            return read(Int64.self) { Double($0) }
        case "uint64":
            return read(UInt64.self) { Double($0) }
        default:
            throw EdgevitError.damaged("there is no type \(dtype)")
        }
    }

    private func read<Element>(_ type: Element.Type, _ convert: (Element) -> Double) -> [Double] {
        let count = data.count / MemoryLayout<Element>.stride
        return [UInt8](data).withUnsafeBytes { bytes in
            (0..<count).map { index in
                convert(bytes.load(fromByteOffset: index * MemoryLayout<Element>.stride, as: type))
            }
        }
    }
}

/// IEEE 754 half precision; `Float16` does not exist on every Mac.
func halfToDouble(_ bits: UInt16) -> Double {
    let sign: Double = (bits & 0x8000) == 0 ? 1 : -1
    let exponent = Int((bits >> 10) & 0x1F)
    let fraction = Double(bits & 0x3FF)
    if exponent == 0 {
        return sign * scalbn(fraction, -24)
    }
    if exponent == 31 {
        return fraction == 0 ? sign * Double.infinity : Double.nan
    }
    return sign * scalbn(fraction + 1024, exponent - 25)
}
