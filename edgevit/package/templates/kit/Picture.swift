import CoreGraphics
import Foundation
import ImageIO

/// A picture in 8 bits of red, green and blue, turned the way its EXIF data says.
///
/// Resize and crop follow edgevit's, which are Pillow's and torchvision's, to the last bit. Decoders of JPEG differ by
/// a level or so; transparent parts become white here and keep their colours there.
public struct Picture: Sendable {
    public let width: Int
    public let height: Int
    /// Rows from the top, three bytes a pixel.
    public let pixels: [UInt8]

    init(width: Int, height: Int, pixels: [UInt8]) {
        self.width = width
        self.height = height
        self.pixels = pixels
    }

    /// Decodes a file's bytes.
    public init(data: Data) throws {
        guard let source = CGImageSourceCreateWithData(data as CFData, nil),
            let image = CGImageSourceCreateImageAtIndex(source, 0, nil),
            let space = CGColorSpace(name: CGColorSpace.sRGB)
        else {
            throw EdgevitError.input("it is no picture that this system reads")
        }
        let width = image.width
        let height = image.height
        var rgba = [UInt8](repeating: 255, count: width * height * 4)
        let drawn = rgba.withUnsafeMutableBytes { bytes -> Bool in
            guard
                let context = CGContext(
                    data: bytes.baseAddress,
                    width: width,
                    height: height,
                    bitsPerComponent: 8,
                    bytesPerRow: width * 4,
                    space: space,
                    bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue
                )
            else {
                return false
            }
            context.interpolationQuality = .none
            context.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
            return true
        }
        guard drawn else {
            throw EdgevitError.input("the picture is too large")
        }
        let properties = CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any]
        let orientation = (properties?[kCGImagePropertyOrientation] as? NSNumber)?.intValue ?? 1
        self = Picture.turned(rgba, width, height, orientation)
    }

    /// The model's input: resized, cropped in the middle, `(pixel * scale - mean) / std`, channels first.
    public func tensor(_ preprocessing: Plan.Preprocessing, shape: [Int]) throws -> Tensor {
        var picture = self
        switch preprocessing.resize {
        case .none:
            break
        case .some(.shortSide(let side)):
            let short = min(width, height)
            picture = resized(width * side / short, height * side / short, preprocessing.interpolation)
        case .some(.exactly(let height, let width)):
            picture = resized(width, height, preprocessing.interpolation)
        }
        if let side = preprocessing.crop {
            picture = try picture.cropped(side)
        }
        guard shape == [1, 3, picture.height, picture.width] else {
            throw EdgevitError.input("the picture becomes \(picture.height) x \(picture.width), the model takes \(shape)")
        }
        let plane = picture.width * picture.height
        var values = [Float](repeating: 0, count: 3 * plane)
        for channel in 0..<3 {
            let source = preprocessing.channelOrder == "BGR" ? 2 - channel : channel
            let scale = Float(preprocessing.scale)
            let mean = Float(preprocessing.mean[channel])
            let std = Float(preprocessing.std[channel])
            for index in 0..<plane {
                values[channel * plane + index] = (Float(picture.pixels[index * 3 + source]) * scale - mean) / std
            }
        }
        return Tensor(shape: shape, floats: values)
    }

    private static func turned(_ rgba: [UInt8], _ width: Int, _ height: Int, _ orientation: Int) -> Picture {
        let swapped = orientation >= 5 && orientation <= 8
        let newWidth = swapped ? height : width
        let newHeight = swapped ? width : height
        var pixels = [UInt8](repeating: 0, count: newWidth * newHeight * 3)
        for y in 0..<newHeight {
            for x in 0..<newWidth {
                let from: (x: Int, y: Int)
                switch orientation {
                case 2: from = (width - 1 - x, y)
                case 3: from = (width - 1 - x, height - 1 - y)
                case 4: from = (x, height - 1 - y)
                case 5: from = (y, x)
                case 6: from = (y, height - 1 - x)
                case 7: from = (width - 1 - y, height - 1 - x)
                case 8: from = (width - 1 - y, x)
                default: from = (x, y)
                }
                let source = (from.y * width + from.x) * 4
                let target = (y * newWidth + x) * 3
                pixels[target] = rgba[source]
                pixels[target + 1] = rgba[source + 1]
                pixels[target + 2] = rgba[source + 2]
            }
        }
        return Picture(width: newWidth, height: newHeight, pixels: pixels)
    }

    private func cropped(_ side: Int) throws -> Picture {
        guard min(width, height) >= side else {
            throw EdgevitError.input("the picture is smaller than the crop of \(side)")
        }
        let left = Int((Double(width - side) / 2).rounded(.toNearestOrEven))
        let top = Int((Double(height - side) / 2).rounded(.toNearestOrEven))
        var result: [UInt8] = []
        result.reserveCapacity(side * side * 3)
        for y in top..<(top + side) {
            let start = (y * width + left) * 3
            result.append(contentsOf: pixels[start..<(start + side * 3)])
        }
        return Picture(width: side, height: side, pixels: result)
    }

    private func resized(_ newWidth: Int, _ newHeight: Int, _ interpolation: String) -> Picture {
        let columns = Resampling(from: width, to: newWidth, interpolation: interpolation)
        let rows = Resampling(from: height, to: newHeight, interpolation: interpolation)
        let narrow = columns.apply(pixels, lines: height, lineStride: width * 3, step: 3)
        // Rows of the result of the first pass are newWidth pixels.
        let wide = Picture.transposed(narrow, newWidth, height)
        let short = rows.apply(wide, lines: newWidth, lineStride: height * 3, step: 3)
        return Picture(
            width: newWidth, height: newHeight, pixels: Picture.transposed(short, newHeight, newWidth))
    }

    /// Rows become columns.
    private static func transposed(_ pixels: [UInt8], _ width: Int, _ height: Int) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: pixels.count)
        for y in 0..<height {
            for x in 0..<width {
                for channel in 0..<3 {
                    result[(x * height + y) * 3 + channel] = pixels[(y * width + x) * 3 + channel]
                }
            }
        }
        return result
    }
}

/// Antialiased resampling of lines of pixels, in Pillow's fixed-point arithmetic (`Resample.c`).
struct Resampling {
    private static let bits = 22

    private let starts: [Int]
    private let weights: [[Int]]

    init(from size: Int, to newSize: Int, interpolation: String) {
        let bicubic = interpolation == "bicubic"
        let scale = Double(size) / Double(newSize)
        let filterScale = max(scale, 1)
        let support = (bicubic ? 2 : 1) * filterScale
        var starts: [Int] = []
        var weights: [[Int]] = []
        for place in 0..<newSize {
            let center = (Double(place) + 0.5) * scale
            let first = max(Int(center - support + 0.5), 0)
            let last = min(Int(center + support + 0.5), size)
            let raw = (first..<last).map { index -> Double in
                let distance = (Double(index) - center + 0.5) / filterScale
                return bicubic ? Resampling.cubic(distance) : max(1 - abs(distance), 0)
            }
            let sum = raw.reduce(0, +)
            starts.append(first)
            weights.append(
                raw.map { weight in
                    let fixed = weight / sum * Double(1 << Resampling.bits)
                    return Int(fixed < 0 ? fixed - 0.5 : fixed + 0.5)
                }
            )
        }
        self.starts = starts
        self.weights = weights
    }

    /// Every line resampled; lines follow each other, three bytes a pixel.
    func apply(_ pixels: [UInt8], lines: Int, lineStride: Int, step: Int) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: lines * starts.count * step)
        for line in 0..<lines {
            for place in starts.indices {
                let begin = line * lineStride + starts[place] * step
                for channel in 0..<step {
                    var sum = 1 << (Resampling.bits - 1)
                    for (index, weight) in weights[place].enumerated() {
                        sum += Int(pixels[begin + index * step + channel]) * weight
                    }
                    result[(line * starts.count + place) * step + channel] = UInt8(
                        min(max(sum >> Resampling.bits, 0), 255))
                }
            }
        }
        return result
    }

    private static func cubic(_ value: Double) -> Double {
        let a = -0.5
        let x = abs(value)
        if x < 1 {
            return ((a + 2) * x - (a + 3)) * x * x + 1
        }
        if x < 2 {
            return (((x - 5) * x + 8) * x - 4) * a
        }
        return 0
    }
}
