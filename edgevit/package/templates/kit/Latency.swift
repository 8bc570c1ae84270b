import Foundation

/// Times of repeated runs on the same input, in milliseconds.
public struct Latency: Encodable, Sendable {
    public struct Times: Encodable, Sendable {
        public let median: Double
        public let p90: Double
        public let min: Double

        init(seconds: [Double]) {
            let sorted = seconds.map { $0 * 1000 }.sorted()
            median = Times.quantile(sorted, 0.5)
            p90 = Times.quantile(sorted, 0.9)
            min = sorted.first ?? 0
        }

        /// Linear between the two nearest values.
        private static func quantile(_ sorted: [Double], _ share: Double) -> Double {
            guard let last = sorted.last else {
                return 0
            }
            let place = share * Double(sorted.count - 1)
            let lower = Int(place)
            guard lower + 1 < sorted.count else {
                return last
            }
            return sorted[lower] + (sorted[lower + 1] - sorted[lower]) * (place - Double(lower))
        }
    }

    public let warmUp: Int
    public let runs: Int
    /// Between the GPU's start and end of the commands.
    public let gpuMs: Times
    /// Between the call and its end.
    public let wallMs: Times

    /// Runs the model `warmUp` times without a clock, then `runs` times with one.
    public static func measure(
        _ model: EdgevitModel, _ inputs: [String: Tensor], warmUp: Int = 10, runs: Int = 50
    ) throws -> Latency {
        for _ in 0..<warmUp {
            _ = try model.predict(inputs)
        }
        var gpu: [Double] = []
        var wall: [Double] = []
        for _ in 0..<runs {
            let prediction = try model.predict(inputs)
            gpu.append(prediction.gpuSeconds)
            wall.append(prediction.seconds)
        }
        return Latency(warmUp: warmUp, runs: runs, gpuMs: Times(seconds: gpu), wallMs: Times(seconds: wall))
    }
}
