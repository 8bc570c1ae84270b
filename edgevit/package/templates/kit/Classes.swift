import Foundation

/// A class that the model finds in a picture.
public struct FoundClass: Encodable, Sendable {
    public let index: Int
    public let label: String
    public let probability: Double
}

extension Plan {
    /// The output that scores classes: the first of shape [1, classes].
    public var classOutput: TensorPlan? {
        guard task == nil || task == "classification" else {
            return nil
        }
        return outputs.first { $0.shape.count == 2 && $0.shape[0] == 1 && $0.shape[1] > 1 }
    }

    /// The likeliest classes, best first.
    public func bestClasses(_ prediction: Prediction, count: Int = 5) throws -> [FoundClass] {
        guard let output = classOutput, let scores = try prediction.outputs[output.name]?.values() else {
            return []
        }
        let probabilities = Plan.probabilities(scores)
        let order = probabilities.indices.sorted { probabilities[$0] > probabilities[$1] }
        return order.prefix(count).map { index in
            let label = labels.flatMap { index < $0.count ? $0[index] : nil } ?? "class \(index)"
            return FoundClass(index: index, label: label, probability: probabilities[index])
        }
    }

    /// Softmax, unless the scores are probabilities already.
    private static func probabilities(_ scores: [Double]) -> [Double] {
        let total = scores.reduce(0, +)
        if scores.allSatisfy({ $0 >= 0 }), abs(total - 1) < 0.01 {
            return scores
        }
        let largest = scores.max() ?? 0
        let powers = scores.map { exp($0 - largest) }
        let sum = powers.reduce(0, +)
        return powers.map { $0 / sum }
    }
}

/// The folder `Model` that this app or package carries.
public func bundledModelFolder() throws -> URL {
    #if SWIFT_PACKAGE
    let bundle = Bundle.module
    #else
    let bundle = Bundle.main
    #endif
    guard let folder = bundle.url(forResource: "Model", withExtension: nil) else {
        throw EdgevitError.damaged("the folder Model is not in the bundle")
    }
    return folder
}
